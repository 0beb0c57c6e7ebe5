#pragma once

#include "kernels/cuda/candidates.cuh"

// The search of kernels/integer_zero.h, which says what it looks for, by quads. `Elements` (see quad.cuh) have these,
// too:
//   Count               of whole numbers, with room for their sums over a lane's elements
//   begin_whole(scale)  before x(i)
//   x(i)                the weight times that, as a whole number
//   longest()           weights of the group, or of another one of the warp where there is none
//   at(k)               weight k of the group, whichever lane's it is

namespace halfquad::cuda {

inline constexpr int kLargestWhole = 32767;  // these three as IntegerZeroSearch has them
inline constexpr unsigned kWholeChunk = 128U;
inline constexpr unsigned kKeyBits = 15U;

/// The range that the codes of a group have to cover, for whole zeros. Of one that is too narrow, some other.
struct WholeSpan {
  float length, middle = 0;
  bool wide;

  __device__ __forceinline__ WholeSpan(const Range& range, const SolveLaunch& launch)
      : length(length_of(range, launch)) {
    wide = length > kNarrowest;
    if (!wide) length = 1.0F;
    if (wide && !launch.whole.symmetric) middle = mul(0.5F, add(fminf(range.lo, 0.0F), fmaxf(range.hi, 0.0F)));
  }

  /// The zero in whose range the part `covered` lies best, rounded.
  [[nodiscard]] __device__ __forceinline__ float zero_of(float covered, float scale) const {
    return rintf(div(sub(mul(0.5F, covered), middle), scale));
  }

  /// What must not be met in a group with this range.
  [[nodiscard]] static __device__ __forceinline__ unsigned met_in(const Range& range, const SolveLaunch& launch) {
    return range.finite() && is_finite(length_of(range, launch)) ? 0 : kMetNonfinite;
  }

 private:
  [[nodiscard]] static __device__ __forceinline__ float length_of(const Range& range, const SolveLaunch& launch) {
    const float lo = fminf(range.lo, 0.0F), hi = fmaxf(range.hi, 0.0F);
    return launch.whole.symmetric ? mul(2.0F, fmaxf(-lo, hi)) : sub(hi, lo);
  }
};

template <class Count>
__device__ __forceinline__ Count count_by_quad(Count mine) {
  __syncwarp();
  mine += __shfl_xor_sync(kFullWarp, mine, 1);
  return mine + __shfl_xor_sync(kFullWarp, mine, 2);
}

/// A group's weights as whole numbers, and what codes leave of them.
template <class Elements>
class WholeNumbers {
 public:
  __device__ __forceinline__ WholeNumbers(Elements& elements, float length, const SolveLaunch& launch)
      : elements_(elements),
        largest_code_(static_cast<int>(launch.largest_code)),
        shift_(15 + launch.whole.fraction_bits),
        half_((1 << 14) + (1 << (14 + launch.whole.fraction_bits))) {
    elements.begin_whole(div(static_cast<float>(kLargestWhole), length));
    long long squares = 0;
    elements.each([&](auto i) {
      const int x = elements.x(i);
      squares += static_cast<long long>(x) * x;
    });
    square_sum_ = __ll2double_rn(count_by_quad(squares));
  }

  /// The error and the fit of the codes that a multiplier and a zero give.
  __device__ __forceinline__ void look(int multiplier, Candidate& at) const {
    using Count = typename Elements::Count;
    const int zero = __float2int_rn(at.zero);
    const int low = -zero, high = largest_code_ - zero;
    Count products = 0, squares = 0;
    elements_.each([&](auto i) {
      const int x = elements_.x(i);
      // Rounding half up to the fraction and then to whole steps is one shift: the halves add up.
      const int d = min(max((x * multiplier + half_) >> shift_, low), high);
      products += static_cast<Count>(x) * d;
      squares += static_cast<Count>(d) * d;
    });
    products = count_by_quad(products);
    squares = count_by_quad(squares);
    const float a = rounded(products), b = rounded(squares);
    const double wide_a = exact(products), wide_b = exact(squares);
    const auto left = __double2float_rn(__dsub_rn(__dmul_rn(square_sum_, wide_b), __dmul_rn(wide_a, wide_a)));
    const float inverse = div(1.0F, mul(a, b));
    at.error = squares == 0 ? __builtin_huge_valf() : mul(fmaxf(left, 0.0F), mul(a, inverse));
    at.fit = mul(mul(b, b), inverse);
  }

  /// Takes over the codes of the scale that fits if they are better, and tells whether they are.
  __device__ __forceinline__ bool refine(Candidate& now) const {
    const float one = __int2float_rn(1 << shift_);
    Candidate again = now;
    look(__float2int_rn(fminf(mul(now.fit, one), static_cast<float>(kLargestWhole))), again);
    const bool better = now.error < __builtin_huge_valf() && again.error < now.error;
    if (better) now = again;
    return better;
  }

 private:
  static __device__ __forceinline__ float rounded(int count) { return __int2float_rn(count); }
  static __device__ __forceinline__ float rounded(long long count) { return __ll2float_rn(count); }
  static __device__ __forceinline__ double exact(int count) { return __int2double_rn(count); }
  static __device__ __forceinline__ double exact(long long count) { return __ll2double_rn(count); }

  const Elements& elements_;
  double square_sum_;
  int largest_code_, shift_, half_;
};

/// The first round: leaves the best, so many as the search keeps.
template <class Elements>
__device__ __forceinline__ void try_starts(const WholeNumbers<Elements>& numbers, const WholeSpan& span,
                                           const SolveLaunch& launch, CandidateSet& kept) {
  const WholeValues& search = launch.whole;
#pragma unroll 1
  for (int part = 0; part < kWholeStarts; ++part) {
    const int zeros = search.zeros[part];
    const float covered = mul(span.length, search.parts[part]);
    const float own = search.symmetric ? search.fixed_zero : span.zero_of(covered, div(covered, launch.largest_code));
#pragma unroll 1
    for (int aside = -(zeros / 2); aside < zeros - zeros / 2; ++aside) {
      Candidate tried;
      tried.zero = add(own, __int2float_rn(aside));
      numbers.look(search.multipliers[part], tried);
      tried.error = __uint_as_float(__float_as_uint(tried.error) & ~kKeyBits);
      tried.order = static_cast<unsigned>(3 * part + 1 + aside);
      if (tried.zero < 0 || tried.zero > launch.largest_code) tried.error = __builtin_huge_valf();
      kept.insert(tried, search.kept);
    }
  }
  kept.sort(search.kept);
}

/// Whether one grid leaves a smaller sum of squared errors than another. Lanes 0 and 2 of a quad have the one, lanes 1
/// and 3 the other; chunks go to lanes 0 and 1, 2 and 3 in turn.
template <class Elements>
__device__ __forceinline__ bool is_better(const Elements& elements, float largest_code, const Grid& grid,
                                          const Grid& than) {
  const int which = quad_lane() % 2;
  const float s = which == 0 ? grid.s : than.s, z = add(which == 0 ? grid.z : than.z, kMagic);
  const float S = div(1.0F, s), most = add(largest_code, kMagic);
  const unsigned longest = elements.longest();
  double total = 0;
#pragma unroll 1
  for (unsigned begin = 0; begin < longest; begin += 2 * kWholeChunk) {
    const unsigned first = begin + static_cast<unsigned>(quad_lane() / 2) * kWholeChunk;
    const unsigned last = min(first + kWholeChunk, longest);
    float chunk = 0;
    for (unsigned k = first; k < last; ++k) {
      const float w = elements.at(k);
      const float q = fminf(fmaxf(add(mul(w, S), z), kMagic), most);
      const float e = sub(w, mul(sub(q, z), s));
      chunk = add(chunk, mul(e, e));
    }
    __syncwarp();
    total = __dadd_rn(total, static_cast<double>(__shfl_sync(kFullWarp, chunk, which, kQuad)));
    total = __dadd_rn(total, static_cast<double>(__shfl_sync(kFullWarp, chunk, which + 2, kQuad)));
  }
  const double other = __shfl_xor_sync(kFullWarp, total, 1);
  return which == 0 ? total < other : other < total;
}

/// The best grid of a group with these weights. The whole warp takes part; where a lane has no elements, the result
/// means nothing.
template <class Elements>
__device__ __forceinline__ Grid search_whole(Elements& elements, const Range& range, const SolveLaunch& launch) {
  const WholeValues& search = launch.whole;
  const WholeSpan span(range, launch);
  Grid nearest;
  nearest.s = div(span.length, launch.largest_code);
  nearest.z = search.fixed_zero;
  if (!search.symmetric) {
    nearest.z = fminf(fmaxf(span.zero_of(span.length, nearest.s), 0.0F), launch.largest_code);
  }
  if (!span.wide) {
    nearest.s = 1.0F;
    nearest.z = search.fixed_zero;
  }
  nearest.S = div(1.0F, nearest.s);
  if (!search.searches) return nearest;

  const WholeNumbers<Elements> numbers(elements, span.length, launch);
  CandidateSet kept(0.0F);
  try_starts(numbers, span, launch, kept);
  int count = search.kept;
#pragma unroll 1
  for (int round = 0; round < search.rounds; ++round) {
    if (round > 0) kept.drop_worst(count--);
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      Candidate now = kept.get(i);
      if (numbers.refine(now)) kept.put(i, now);
    }
  }
  const Candidate found = kept.best(count);
  const bool exists = span.wide && found.error < __builtin_huge_valf();
  Grid best;
  best.s = exists ? div(div(span.length, static_cast<float>(kLargestWhole)), found.fit) : 1.0F;
  best.z = found.zero;
  best.S = div(1.0F, best.s);
  return is_better(elements, launch.largest_code, best, nearest) && exists ? best : nearest;
}

}  // namespace halfquad::cuda
