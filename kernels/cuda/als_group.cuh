#pragma once

#include "kernels/cuda/quad.cuh"

// The search of kernels/als_search.h, which says what is canonical. `Elements` (see quad.cuh) have these, too:
//   cut_h(i), cut_hd(i)  h' and p of a fit, after begin_fits()

namespace halfquad::cuda {

__device__ __forceinline__ float cut(float value, const Cut& by) {
  return __uint_as_float((__float_as_uint(value) + by.half) & by.mask);
}

struct AlsPair {
  float S = 1, z = 0;
};

/// A group while it is searched: its range, its weighted mean, and what a fit needs besides the sums over its codes.
struct AlsGroup {
  float range, half, mid;
  float mean, s1, S1;
  float inverse_h, all_hd, offset;
  bool wide;

  template <class Elements>
  __device__ __forceinline__ AlsGroup(Elements& elements, const Range& weights, const SolveLaunch& launch) {
    range = sub(weights.hi, weights.lo);
    half = mul(0.5F, range);
    mid = add(mul(0.5F, weights.lo), mul(0.5F, weights.hi));
    wide = range > kNarrowest;
    float sums[2];
    sum_by_quad(
        elements,
        [&](auto i, float(&terms)[2]) {
          terms[0] = elements.h(i);
          terms[1] = mul(elements.h(i), elements.w(i));
        },
        sums);
    mean = fminf(fmaxf(div(sums[1], sums[0]), weights.lo), weights.hi);
    s1 = wide ? div(range, launch.largest_code) : 1.0F;
    S1 = div(1.0F, s1);
    elements.begin_fits(mean, S1, launch);
    sum_by_quad(
        elements,
        [&](auto i, float(&terms)[2]) {
          terms[0] = elements.cut_h(i);
          terms[1] = elements.cut_hd(i);
        },
        sums);
    inverse_h = div(1.0F, sums[0]);
    all_hd = sums[1];
    offset = mul(all_hd, inverse_h);
  }

  [[nodiscard]] __device__ __forceinline__ AlsPair start(int i, const SolveLaunch& launch) const {
    const float part = __ldg(launch.starts + i);
    AlsPair pair;
    pair.S = div(1.0F, div(mul(range, part), launch.largest_code));
    pair.z = mul(sub(mul(half, part), mid), pair.S);
    return pair;
  }

  /// Fits a pair to the codes of `now`; false when there is none, or none other.
  template <class Elements>
  __device__ __forceinline__ bool refit(const Elements& elements, float largest_code, AlsPair& now) const {
    const float middle = clamped_code(add(mul(mean, now.S), now.z), 0.0F, largest_code);
    const float z_around_middle = sub(now.z, middle), least = sub(0.0F, middle), most = sub(largest_code, middle);
    float sums[3];
    sum_by_quad(
        elements,
        [&](auto i, float(&terms)[3]) {
          const float q = clamped_code(add(mul(elements.w(i), now.S), z_around_middle), least, most);
          terms[0] = mul(elements.cut_h(i), q);
          terms[1] = mul(terms[0], q);
          terms[2] = mul(elements.cut_hd(i), q);
        },
        sums);
    const float mean_q = mul(sums[0], inverse_h);
    const float den = sub(sums[1], mul(sums[0], mean_q));
    const float num = sub(sums[2], mul(all_hd, mean_q));
    const float S = mul(S1, div(den, num));
    const float z = sub(sub(add(middle, mean_q), mul(mean, S)), mul(offset, mul(s1, S)));
    if (!(num > 0 && den > 0) || (S == now.S && z == now.z)) return false;
    now.S = S;
    now.z = z;
    return true;
  }

  /// The weighted sum of squared errors, in codes of the first start.
  template <class Elements>
  [[nodiscard]] __device__ __forceinline__ float score(const Elements& elements, float largest_code,
                                                       const AlsPair& now) const {
    float errors[1];
    sum_by_quad(
        elements,
        [&](auto i, float(&terms)[1]) {
          const float t = add(mul(elements.w(i), now.S), now.z);
          const float e = sub(t, clamped_code(t, 0.0F, largest_code));
          terms[0] = mul(mul(elements.h(i), e), e);
        },
        errors);
    const float ratio = mul(now.S, s1);
    return div(errors[0], mul(ratio, ratio));
  }
};

/// The best pair of a group with these weights. The whole warp takes part; where a lane has no elements, the result
/// means nothing.
template <class Elements>
__device__ __forceinline__ AlsPair search_als(Elements& elements, const Range& range, const SolveLaunch& launch) {
  const AlsGroup group(elements, range, launch);
  AlsPair best = group.start(0, launch);
  float best_score = fminf(group.score(elements, launch.largest_code, best), __builtin_huge_valf());  // a NaN is none
#pragma unroll 1
  for (int i = 0; i < launch.start_count; ++i) {
    AlsPair now = group.start(i, launch);
    bool live = group.wide;
#pragma unroll 1
    for (int round = 0; round < launch.rounds && __any_sync(kFullWarp, live) != 0; ++round) {
      AlsPair next = now;
      live = group.refit(elements, launch.largest_code, next) && live;
      if (live) now = next;
    }
    const float score = group.score(elements, launch.largest_code, now);
    if (score < best_score) {
      best = now;
      best_score = score;
    }
  }
  if (!group.wide) {
    best.S = 1.0F;
    best.z = sub(0.0F, group.mean);
  }
  return best;
}

}  // namespace halfquad::cuda
