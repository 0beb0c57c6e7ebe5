#include "kernels/reference/integer_zero.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/integer_zero.h"

namespace halfquad {
namespace {

using Search = IntegerZeroSearch;

/// The range that the codes of a group have to cover.
struct Span {
  float length = 0;
  float middle = 0;
};

Span span_of(const WeightRange& range, ZeroKind zeros) noexcept {
  const float lo = std::min(range.lo, 0.0F);
  const float hi = std::max(range.hi, 0.0F);
  if (zeros == ZeroKind::kSymmetric) return {.length = 2 * std::max(-lo, hi)};
  return {.length = hi - lo, .middle = 0.5F * (lo + hi)};
}

/// The upper 16 bits of twice the product, rounded half up.
int product_15(int a, int b) noexcept { return (a * b + (1 << 14)) >> 15; }

/// What is known of a candidate once its codes are: see IntegerZeroSearch.
struct Scored {
  float error = std::numeric_limits<float>::infinity();  ///< o
  float inverse_fit = 1;                                 ///< B/A
};

struct Slot {
  float error = std::numeric_limits<float>::infinity();
  float inverse_fit = 1;
  int zero = 0;
};

/// A group's weights as 16-bit whole numbers.
class WholeWeights {
 public:
  WholeWeights(std::span<const float> weights, float length, const Search& search) : search_(search) {
    const float to_whole = static_cast<float>(Search::kLargest) / length;
    for (const float w : weights) x_.push_back(static_cast<int>(std::nearbyint(w * to_whole)));
    square_sum_ = sum([](int x, int) { return std::int64_t{x} * x; }, 0, 0);
  }

  [[nodiscard]] Scored score(int multiplier, int zero) const {
    const double products = sum([](int x, int d) { return std::int64_t{x} * d; }, multiplier, zero);
    const double squares = sum([](int, int d) { return std::int64_t{d} * d; }, multiplier, zero);
    if (squares == 0) return {};
    const auto a = static_cast<float>(products);
    const auto b = static_cast<float>(squares);
    const float inverse = 1.0F / (a * b);
    const auto d = static_cast<float>(square_sum_ * squares - products * products);
    return {.error = std::max(d, 0.0F) * (a * inverse), .inverse_fit = (b * b) * inverse};
  }

  /// The multiplier for the scale that fits best, as far as 16 bits reach.
  [[nodiscard]] int fitted_multiplier(float inverse_fit) const noexcept {
    const float one = std::ldexp(1.0F, 15 + search_.fraction_bits());
    return static_cast<int>(std::nearbyint(std::min(inverse_fit * one, static_cast<float>(Search::kLargest))));
  }

 private:
  template <class Term>
  [[nodiscard]] double sum(const Term& term, int multiplier, int zero) const {
    double total = 0;
    for (std::size_t begin = 0; begin < x_.size(); begin += Search::kChunk) {
      std::int64_t chunk = 0;
      for (std::size_t k = begin; k < std::min(x_.size(), begin + Search::kChunk); ++k) {
        const int fine = product_15(x_[k], multiplier);
        const int steps = product_15(fine, 1 << (15 - search_.fraction_bits()));
        chunk += term(x_[k], std::clamp(steps, -zero, search_.largest_code() - zero));
      }
      total += static_cast<double>(chunk);
    }
    return total;
  }

  const Search& search_;
  std::vector<int> x_;
  double square_sum_ = 0;
};

/// The candidates of the first round, best first.
std::vector<Slot> try_starts(const WholeWeights& whole, const Span& span, const Search& search) {
  struct Tried {
    std::int32_t key;  ///< Bits of the error, the last four of them replaced by the index: no two are equal.
    Slot slot;
  };
  std::vector<Tried> tried;
  const auto largest = static_cast<float>(search.largest_code());
  for (int part = 0; part < Search::kStarts; ++part) {
    if (search.zeros(part) == 0) continue;
    const float covered = span.length * search.part(part);
    const float rounded = std::nearbyint((0.5F * covered - span.middle) / (covered / largest));
    for (int i = 0; i < 3; ++i) {
      if (i != 1 && search.zeros(part) != 3) continue;
      const int zero = search.symmetric() ? search.fixed_zero() : static_cast<int>(rounded) + i - 1;
      if (zero < 0 || zero > search.largest_code()) continue;
      const Scored scored = whole.score(search.multiplier(part), zero);
      const std::int32_t error = std::bit_cast<std::int32_t>(scored.error) & ~(Search::kTried - 1);
      tried.push_back({error | (3 * part + i), {std::bit_cast<float>(error), scored.inverse_fit, zero}});
    }
  }
  std::sort(tried.begin(), tried.end(), [](const Tried& a, const Tried& b) { return a.key < b.key; });
  std::vector<Slot> slots;
  for (const Tried& one : tried) {
    if (static_cast<int>(slots.size()) < search.kept(0) && std::isfinite(one.slot.error)) slots.push_back(one.slot);
  }
  return slots;
}

/// Moves the worst to the end, of equal ones the last; every other gives way by one place where it has to.
void move_worst_back(std::vector<Slot>& slots) {
  for (std::size_t i = 1; i < slots.size(); ++i) {
    if (slots[i].error < slots[i - 1].error) std::swap(slots[i], slots[i - 1]);
  }
}

/// Sum of squared errors: fp32 in index order within a chunk.
double square_error(std::span<const float> weights, float scale, float zero, float largest) {
  const float inverse_scale = 1.0F / scale;
  double total = 0;
  for (std::size_t begin = 0; begin < weights.size(); begin += Search::kChunk) {
    float chunk = 0;
    for (const float w : weights.subspan(begin, std::min<std::size_t>(Search::kChunk, weights.size() - begin))) {
      const float q = w * inverse_scale + (zero + Search::kRounding);
      const float e =
          w - (std::clamp(q, Search::kRounding, largest + Search::kRounding) - (zero + Search::kRounding)) * scale;
      chunk += e * e;
    }
    total += static_cast<double>(chunk);
  }
  return total;
}

}  // namespace

IntegerZeroSearch::IntegerZeroSearch(const QuantSpec& spec, std::int64_t group_elems) noexcept
    : symmetric_(spec.zeros == ZeroKind::kSymmetric),
      searches_(spec.solver != SolverKind::kRtn),
      largest_code_(qmax(spec.width)),
      fraction_bits_(0),
      rounds_(std::min(spec.iters - 1, kMostRounds)),
      kept_(largest_code_ <= 2 ? kMostKept
            : group_elems < 64 ? kMostKept - 1
                               : kMostKept - 2),
      fixed_zero_(symmetric_ ? (largest_code_ + 1) / 2 : 0) {
  while (fraction_bits_ < 9 && (2 << fraction_bits_) * largest_code_ <= (kLargest + 1) / 2) ++fraction_bits_;
  const auto one = static_cast<double>(std::int64_t{1} << (15 + fraction_bits_));
  for (int part = 0; part < kStarts; ++part) {
    const double f = 1 - part * (group_elems > kMostInSmall ? 0.1 : std::min(0.1, 1.5 / largest_code_));
    parts_[part] = static_cast<float>(f);
    multipliers_[part] = static_cast<int>(one * largest_code_ / (kLargest * f) + 0.5);
    const double cut = std::max(0.0, (1 - f) / 2 * largest_code_ - f / 2);  // in steps, beyond half of one
    const double lost = 2 * cut * cut;
    const double won = static_cast<double>(group_elems) / 12 * (1 - f * f);
    zeros_[part] = lost <= won / 2 ? 3 : lost <= won * 1.5 ? 1 : 0;
    if (symmetric_) zeros_[part] = 1;
  }
}

bool search_integer_zero(std::span<const float> weights, const WeightRange& range, const QuantSpec& spec,
                         FixedGrid& grid) {
  const Search search(spec, static_cast<std::int64_t>(weights.size()));
  const auto largest = static_cast<float>(search.largest_code());
  const Span span = span_of(range, spec.zeros);
  if (!std::isfinite(span.length)) return false;
  grid = {.zero = static_cast<float>(search.fixed_zero())};
  if (!(span.length > Search::kNarrowest)) return true;

  grid.scale = span.length / largest;
  if (!search.symmetric()) {
    grid.zero = std::clamp(std::nearbyint((0.5F * span.length - span.middle) / grid.scale), 0.0F, largest);
  }
  grid.inverse_scale = 1.0F / grid.scale;
  if (!search.searches()) return true;

  const WholeWeights whole(weights, span.length, search);
  std::vector<Slot> slots = try_starts(whole, span, search);
  for (int round = 0; round < search.rounds(); ++round) {
    while (static_cast<int>(slots.size()) > search.kept(round)) {
      move_worst_back(slots);
      slots.pop_back();
    }
    for (Slot& slot : slots) {
      const Scored again = whole.score(whole.fitted_multiplier(slot.inverse_fit), slot.zero);
      if (again.error < slot.error) slot = {again.error, again.inverse_fit, slot.zero};
    }
  }
  while (slots.size() > 1) {
    move_worst_back(slots);
    slots.pop_back();
  }
  if (slots.empty()) return true;
  const float scale = (span.length / static_cast<float>(Search::kLargest)) / slots[0].inverse_fit;
  const auto zero = static_cast<float>(slots[0].zero);
  if (square_error(weights, scale, zero, largest) < square_error(weights, grid.scale, grid.zero, largest)) {
    grid = {.inverse_scale = 1.0F / scale, .scale = scale, .zero = zero};
  }
  return true;
}

}  // namespace halfquad
