#pragma once

#include "kernels/cuda/group_grid.cuh"
#include "kernels/cuda/running_sum.cuh"

// A group of any size, its weights read anew for every step.

namespace halfquad::cuda {

/// Where a group's elements are: element k at `first + k * stride` of the source, its code likewise.
struct GroupPlace {
  const unsigned char* source;
  std::int64_t first, stride;
  unsigned char* codes;
  std::int64_t first_code;
};

/// One step: sums of q - (w - x) * S, and of |e|.
template <Float kSource, class Walk>
__device__ __forceinline__ void sum_step(const Walk& walk, const GroupPlace& place, const Grid& grid,
                                         const StepValues& step, const SolveLaunch& launch, float (&total)[2]) {
  walk.sum(
      [&](unsigned k, float(&terms)[2]) {
        const float w = load_weight<kSource>(place.source, place.first + k * place.stride);
        const float scaled = mul(w, grid.S);
        const float q = sub(magic_code(add(scaled, grid.z), launch.largest_code), kMagic);
        const float e = sub(w, mul(sub(q, grid.z), grid.s));
        terms[0] = sub(q, scaled);
        terms[1] = fabsf(e);
        if (terms[1] > step.inert_threshold) {
          terms[0] = sub(q, mul(sub(w, shrink(e, step.inv_beta, launch)), grid.S));
        }
      },
      total);
}

/// Stores the group's codes and gives its errors. `largest` is that of the lane's elements alone.
template <Float kSource, class Walk>
__device__ __forceinline__ GroupErrors encode(const Walk& walk, const GroupPlace& place, const CodeGrid& grid,
                                              const SolveLaunch& launch) {
  GroupErrors errors;
  float total[3];
  walk.sum(
      [&](unsigned k, float(&terms)[3]) {
        const float w = load_weight<kSource>(place.source, place.first + k * place.stride);
        const float magic = magic_code(add(mul(w, grid.S), grid.z), launch.largest_code);
        place.codes[place.first_code + k * place.stride] = static_cast<unsigned char>(__float_as_uint(magic) & 0xFFU);
        const float e = sub(w, mul(sub(sub(magic, kMagic), grid.zero), grid.s));
        terms[0] = fabsf(e);
        terms[1] = mul(e, e);
        terms[2] = mul(w, w);
        errors.largest = fmaxf(errors.largest, terms[0]);
      },
      total);
  errors.abs = total[0];
  errors.square = total[1];
  errors.weight2 = total[2];
  return errors;
}

/// The same by a whole warp: leaves scale, zero and errors where they belong, too.
template <Float kSource>
__device__ __forceinline__ void finish_by_warp(const WarpWalk& walk, const GroupPlace& place, const Grid& grid,
                                               std::int64_t group, const Part& part, const SolveLaunch& launch) {
  const bool first_lane = (threadIdx.x & 31U) == 0;
  const CodeGrid code_grid(grid, launch);
  GroupErrors errors = encode<kSource>(walk, place, code_grid, launch);
  if (!first_lane) errors.abs = errors.square = errors.weight2 = 0;  // the same in all lanes
  const bool overflow = __any_sync(kFullWarp, !is_finite(errors.abs)) != 0;
  if (overflow) errors.largest = kLargestFloat;
  add_errors(errors, *part.sums);
  if (!first_lane || launch.given_grid) return;
  if (const unsigned met = code_grid.store(group, part, launch); met != 0) atomicOr(&part.sums->met, met);
}

template <Float kSource, class Walk>
__device__ __forceinline__ Range range_of(const Walk& walk, const GroupPlace& place) {
  Range range;
  walk.each([&](unsigned k) { range.add_weight(load_weight<kSource>(place.source, place.first + k * place.stride)); });
  return range;
}

}  // namespace halfquad::cuda
