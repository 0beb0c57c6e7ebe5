#pragma once

#include "kernels/cuda/exact_sum.cuh"

namespace halfquad::cuda {

/// Smallest and largest weight; a zero `lo` is -0 when any weight is -0.
struct Range {
  float lo = __builtin_huge_valf();
  float hi = -__builtin_huge_valf();
  unsigned signs = 0;

  __device__ __forceinline__ void add_weight(float w) {
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(lo) : "f"(lo), "f"(w));
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(hi) : "f"(hi), "f"(w));
    signs |= __float_as_uint(w);
  }
  __device__ __forceinline__ void add_lane(int distance) {
    const float other_lo = __shfl_xor_sync(kFullWarp, lo, distance);
    const float other_hi = __shfl_xor_sync(kFullWarp, hi, distance);
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(lo) : "f"(lo), "f"(other_lo));
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(hi) : "f"(hi), "f"(other_hi));
    signs |= __shfl_xor_sync(kFullWarp, signs, distance);
  }
  [[nodiscard]] __device__ __forceinline__ bool finite() const { return is_finite(lo) && is_finite(hi); }
  /// @pre complete.
  __device__ __forceinline__ void settle_zero() {
    if (lo == 0) lo = __uint_as_float(signs & 0x80000000U);
  }
};

/// A group's grid while it is being solved, and what its range says about every step.
struct Grid {
  float S = 1, s = 1, z = 0;
  float lo_S = 0, hi_S = 0;  // smallest and largest w * S
  float magnitude = 0;       // largest |w|

  /// The canonical start. @pre range is finite and so is its width.
  __device__ __forceinline__ void start(const Range& range, const SolveLaunch& launch) {
    const float span = sub(range.hi, range.lo);
    S = mul(div(1.0F, span), launch.largest_code);
    if (fabsf(span) <= 1e-4F) S = 1.0F;
    S = fminf(S, 2e4F);
    s = div(1.0F, S);
    z = mul(-range.lo, S);
    if (launch.round_zero) z = rintf(z);
    lo_S = mul(range.lo, S);
    hi_S = mul(range.hi, S);
    magnitude = fmaxf(fabsf(range.lo), fabsf(range.hi));
  }

  /// Whether some code of a step with this z could need clamping. w * S + z is monotonic in w, its roundings too, so
  /// the smallest and the largest weight decide.
  [[nodiscard]] __device__ __forceinline__ bool clamps(float largest_code) const {
    return !(add(lo_S, z) >= -0.5F && add(hi_S, z) < add(largest_code, 0.5F));
  }

  /// No |e| of a step with this z is larger, roundings included.
  [[nodiscard]] __device__ __forceinline__ float error_bound(float largest_code) const {
    const float outside = fmaxf(-add(lo_S, z), sub(add(hi_S, z), largest_code));
    const float steps = fmaxf(outside, 0.5F);
    const float largest = add(magnitude, mul(add(largest_code, fabsf(z)), s));
    return add(mul(mul(steps, s), 1.0001F), mul(largest, 0x1p-20F));
  }
};

/// What must not be met in a group with this range.
__device__ __forceinline__ unsigned met_in(const Range& range, const SolveLaunch& launch) {
  return range.finite() && (launch.given_grid || is_finite(sub(range.hi, range.lo))) ? 0 : kMetNonfinite;
}

__device__ __forceinline__ Grid first_grid(const Range& range, const Part& part, const SolveLaunch& launch) {
  Grid grid;
  if (launch.given_grid) {
    grid.S = part.grid.inverse_scale;
    grid.s = part.grid.scale;
    grid.z = part.grid.zero;
  } else {
    grid.start(range, launch);
  }
  return grid;
}

inline constexpr float kLeastScale = 0x1p-24F;  // the smallest that F16 has

/// What a group's codes are taken on, what its errors are, and what is stored of it.
struct CodeGrid {
  float S = 1, z = 0;     // w * S + z is rounded to the code
  float s = 0, zero = 0;  // (q - zero) * s stands for w
  float second = 0;       // beside s

  __device__ __forceinline__ CodeGrid(const Grid& grid, const SolveLaunch& launch)
      : S(grid.S), z(grid.z), s(round_to(launch.stored, grid.s)) {
    if (launch.form == Form::kAsFound || grid.s == 0) {  // no scale: no group, which must add nothing
      second = zero = round_to(launch.stored, grid.z);
      return;
    }
    const float offset = launch.middle == 0 ? mul(-grid.s, grid.z) : mul(sub(launch.middle, grid.z), grid.s);
    s = fmaxf(s, kLeastScale);
    second = round_to(launch.stored, launch.form == Form::kZero ? grid.z : offset);
    z = zero = launch.form == Form::kZero ? second : sub(launch.middle, div(second, s));
    S = div(1.0F, s);
  }

  /// Stores what belongs to group `group`. Returns kMetUnstorable when it does not fit the stored type.
  __device__ __forceinline__ unsigned store(std::int64_t group, const Part& part, const SolveLaunch& launch) const {
    store_value(launch.stored, part.scale, group, s);
    store_value(launch.stored, part.zero, group, second);
    return is_finite(s) && is_finite(second) ? 0 : kMetUnstorable;
  }
};

}  // namespace halfquad::cuda
