#include "kernels/reference/als.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>

#include "kernels/als_search.h"

// The definition of the bytes: one group, one rounded fp32 operation after the other. Clarity before speed.

namespace halfquad {
namespace {

/// The sum of term(0) ... term(count - 1).
template <class Term>
float sum_of(std::size_t count, const Term& term) {
  std::array<float, 4> s{};
  for (std::size_t k = 0; k < count; ++k) s[k % 4] += term(k);
  return (s[0] + s[2]) + (s[1] + s[3]);
}

struct Candidate {
  float S = 1;
  float z = 0;
};

class AlsGroup {
 public:
  AlsGroup(const std::vector<float>& w, const std::vector<float>& h, const WeightRange& range, CodeWidth width)
      : w_(w), h_(h), cut_h_(w.size()), cut_hd_(w.size()), largest_(static_cast<float>(qmax(width))) {
    range_ = range.hi - range.lo;
    mid_ = 0.5F * range.lo + 0.5F * range.hi;
    const std::size_t count = w.size();
    const float all = sum_of(count, [&](std::size_t k) { return h[k]; });
    const float mean = sum_of(count, [&](std::size_t k) { return h[k] * w[k]; }) / all;
    mean_ = std::min(std::max(mean, range.lo), range.hi);
    s1_ = wide() ? range_ / largest_ : 1.0F;
    inverse_s1_ = 1.0F / s1_;
    for (std::size_t k = 0; k < count; ++k) {
      cut_h_[k] = AlsSearch::cut(h[k], AlsSearch::cut_bits_of_h(width));
      cut_hd_[k] = AlsSearch::cut(cut_h_[k] * ((w[k] - mean_) * inverse_s1_), AlsSearch::cut_bits_of_p(width));
    }
    inverse_h_ = 1.0F / sum_of(count, [&](std::size_t k) { return cut_h_[k]; });
    all_hd_ = sum_of(count, [&](std::size_t k) { return cut_hd_[k]; });
    offset_ = all_hd_ * inverse_h_;
  }

  [[nodiscard]] bool wide() const { return range_ > AlsSearch::kNarrowest; }
  [[nodiscard]] float mean() const { return mean_; }

  [[nodiscard]] Candidate start(float part) const {
    const float S = 1.0F / ((range_ * part) / largest_);
    return {.S = S, .z = ((0.5F * range_) * part - mid_) * S};
  }

  /// Fits a pair to the codes of `now`; false when there is none, or none other.
  [[nodiscard]] bool refit(Candidate& now) const {
    const float middle = std::clamp(std::nearbyint(mean_ * now.S + now.z), 0.0F, largest_);
    const float z_around_middle = now.z - middle;
    std::vector<float> q(w_.size());
    for (std::size_t k = 0; k < q.size(); ++k) {
      q[k] = std::nearbyint(std::clamp(w_[k] * now.S + z_around_middle, 0.0F - middle, largest_ - middle));
    }
    const float sum_q = sum_of(q.size(), [&](std::size_t k) { return cut_h_[k] * q[k]; });
    const float sum_qq = sum_of(q.size(), [&](std::size_t k) { return (cut_h_[k] * q[k]) * q[k]; });
    const float sum_dq = sum_of(q.size(), [&](std::size_t k) { return cut_hd_[k] * q[k]; });
    const float mean_q = sum_q * inverse_h_;
    const float den = sum_qq - sum_q * mean_q;
    const float num = sum_dq - all_hd_ * mean_q;
    if (!(num > 0 && den > 0)) return false;
    const float S = inverse_s1_ * (den / num);
    const float z = ((middle + mean_q) - mean_ * S) - offset_ * (s1_ * S);
    if (S == now.S && z == now.z) return false;
    now = {.S = S, .z = z};
    return true;
  }

  /// The weighted sum of squared errors, in codes of the first start.
  [[nodiscard]] float score(const Candidate& now) const {
    const float errors = sum_of(w_.size(), [&](std::size_t k) {
      const float t = w_[k] * now.S + now.z;
      const float e = t - std::nearbyint(std::clamp(t, 0.0F, largest_));
      return (h_[k] * e) * e;
    });
    const float ratio = now.S * s1_;
    return errors / (ratio * ratio);
  }

 private:
  const std::vector<float>& w_;
  const std::vector<float>& h_;
  std::vector<float> cut_h_, cut_hd_;
  float largest_;
  float range_ = 0, mid_ = 0, mean_ = 0, s1_ = 1, inverse_s1_ = 1;
  float inverse_h_ = 1, all_hd_ = 0, offset_ = 0;
};

/// A group whose zero is a whole number.
class WholeGroup {
 public:
  WholeGroup(const std::vector<float>& w, const std::vector<float>& h, float length, CodeWidth width)
      : w_(w), h_(h), largest_(static_cast<float>(qmax(width))), s1_(length / largest_) {}

  struct Look {
    float S = 1, z = 0;
    float score = std::numeric_limits<float>::infinity();
    float fit = 0;  ///< The S that fits these codes; 0: none.
  };

  [[nodiscard]] Look look(float S, float z) const {
    std::vector<float> e(w_.size()), hd(w_.size());
    for (std::size_t k = 0; k < w_.size(); ++k) {
      const float t = w_[k] * S + z;
      const float q = std::nearbyint(std::clamp(t, 0.0F, largest_));
      e[k] = t - q;
      hd[k] = h_[k] * (q - z);
    }
    const float errors = sum_of(w_.size(), [&](std::size_t k) { return (h_[k] * e[k]) * e[k]; });
    const float products = sum_of(w_.size(), [&](std::size_t k) { return hd[k] * w_[k]; });
    const float squares = sum_of(w_.size(), [&](std::size_t k) {
      return hd[k] * (std::nearbyint(std::clamp(w_[k] * S + z, 0.0F, largest_)) - z);
    });
    const float ratio = S * s1_;
    return {S, z, errors / (ratio * ratio), products > 0 ? squares / products : 0.0F};
  }

  /// One round: the codes of the S that fits, if these are better.
  void refine(Look& now) const {
    if (now.fit <= 0) return;
    const Look next = look(now.fit, now.z);
    if (next.score < now.score) now = next;
  }

 private:
  const std::vector<float>& w_;
  const std::vector<float>& h_;
  float largest_, s1_;
};

}  // namespace

bool search_als_whole(const std::vector<float>& w, const std::vector<float>& h, const WeightRange& range,
                      const QuantSpec& spec, FixedGrid& grid) {
  const float lo = std::min(range.lo, 0.0F);
  const float hi = std::max(range.hi, 0.0F);
  const bool symmetric = spec.zeros == ZeroKind::kSymmetric;
  const float length = symmetric ? 2 * std::max(-lo, hi) : hi - lo;
  const float middle = symmetric ? 0 : 0.5F * (lo + hi);
  const auto largest = static_cast<float>(qmax(spec.width));
  const float fixed = symmetric ? static_cast<float>((qmax(spec.width) + 1) / 2) : 0;
  if (!std::isfinite(length)) return false;
  grid = {.zero = fixed};
  if (!(length > AlsSearch::kNarrowest)) return true;

  const WholeGroup group(w, h, length, spec.width);
  std::vector<WholeGroup::Look> kept;
  for (int i = 0; i < spec.starts; ++i) {
    const float covered = length * AlsSearch::part(i, spec.starts);
    const float scale = covered / largest;
    const float own = symmetric ? fixed : std::nearbyint((0.5F * covered - middle) / scale);
    for (const float aside : AlsSearch::kAside) {
      const float zero = own + aside;
      if ((symmetric && aside != 0) || zero < 0 || zero > largest) continue;
      WholeGroup::Look found = group.look(1.0F / scale, zero);
      if (!(found.score < std::numeric_limits<float>::infinity())) continue;
      group.refine(found);
      kept.push_back(found);
      const auto better = [](const WholeGroup::Look& a, const WholeGroup::Look& b) { return a.score < b.score; };
      std::inplace_merge(kept.begin(), kept.end() - 1, kept.end(), better);
      if (kept.size() > AlsSearch::kKept) kept.pop_back();
    }
  }
  for (int round = 1; round < spec.rounds; ++round) {
    for (WholeGroup::Look& one : kept) group.refine(one);
  }
  if (kept.empty()) return true;
  const auto best = std::ranges::min_element(kept, {}, &WholeGroup::Look::score);
  grid = {.inverse_scale = best->S, .scale = 1.0F / best->S, .zero = best->z};
  return true;
}

FixedGrid search_als(const std::vector<float>& w, const std::vector<float>& h, const WeightRange& range,
                     const QuantSpec& spec) {
  const AlsGroup group(w, h, range, spec.width);
  if (!group.wide()) return {.zero = 0.0F - group.mean()};
  Candidate best = group.start(AlsSearch::part(0, spec.starts));
  float best_score = std::numeric_limits<float>::infinity();
  const auto keep = [&](const Candidate& candidate) {
    const float score = group.score(candidate);
    if (!(score < best_score)) return;
    best = candidate;
    best_score = score;
  };
  keep(best);
  for (int i = 0; i < spec.starts; ++i) {
    Candidate now = group.start(AlsSearch::part(i, spec.starts));
    for (int round = 0; round < spec.rounds && group.refit(now); ++round) continue;
    keep(now);
  }
  return {.inverse_scale = best.S, .scale = 1.0F / best.S, .zero = best.z};
}

}  // namespace halfquad
