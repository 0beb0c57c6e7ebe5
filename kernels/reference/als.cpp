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

}  // namespace

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
