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

/// Stores the group's codes and gives its errors on the stored grid. `largest` is that of the lane's elements alone.
template <Float kSource, class Walk>
__device__ __forceinline__ GroupErrors encode(const Walk& walk, const GroupPlace& place, const Grid& grid,
                                              const SolveLaunch& launch) {
  const float stored_s = round_to(launch.stored, grid.s);
  const float stored_z = round_to(launch.stored, grid.z);
  GroupErrors errors;
  float total[3];
  walk.sum(
      [&](unsigned k, float(&terms)[3]) {
        const float w = load_weight<kSource>(place.source, place.first + k * place.stride);
        const float magic = magic_code(add(mul(w, grid.S), grid.z), launch.largest_code);
        place.codes[place.first_code + k * place.stride] = static_cast<unsigned char>(__float_as_uint(magic) & 0xFFU);
        const float e = sub(w, mul(sub(sub(magic, kMagic), stored_z), stored_s));
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

template <Float kSource, class Walk>
__device__ __forceinline__ Range range_of(const Walk& walk, const GroupPlace& place) {
  Range range;
  walk.each([&](unsigned k) { range.add_weight(load_weight<kSource>(place.source, place.first + k * place.stride)); });
  return range;
}

}  // namespace halfquad::cuda
