#pragma once

#include "kernels/cuda/group_grid.cuh"
#include "kernels/cuda/launch_shapes.h"

// The lanes of a quad share a group: element k is that of lane k mod 4, and so is the running sum that it goes to.
// `Elements` are those of a lane:
//   each(visit)          calls visit(i) for all of them in index order
//   w(i), h(i)           weight and importance

namespace halfquad::cuda {

inline constexpr float kNarrowest = 1e-9F;  ///< As AlsSearch and IntegerZeroSearch have it.

__device__ __forceinline__ int quad_lane() { return static_cast<int>(threadIdx.x) % kQuad; }

/// Sums over a group; all its lanes get them. The whole warp takes part. visit(i, terms).
template <int kSums, class Elements, class Visit>
__device__ __forceinline__ void sum_by_quad(const Elements& elements, const Visit& visit, float (&total)[kSums]) {
  float mine[kSums] = {};
  elements.each([&](auto i) {
    float terms[kSums];
    visit(i, terms);
#pragma unroll
    for (int n = 0; n < kSums; ++n) mine[n] = add(mine[n], terms[n]);
  });
  __syncwarp();
#pragma unroll
  for (int n = 0; n < kSums; ++n) {
    const float pair = add(mine[n], __shfl_xor_sync(kFullWarp, mine[n], 2));
    total[n] = add(pair, __shfl_xor_sync(kFullWarp, pair, 1));
  }
}

/// The code nearest to x, without its fraction.
__device__ __forceinline__ float clamped_code(float x, float least, float most) {
  return sub(add(fminf(fmaxf(x, least), most), kMagic), kMagic);
}

/// Whether weighted errors are asked for: of codes on the stored grid, as Solver::encode_groups() has them.
__device__ __forceinline__ bool weighs_errors(const Part& part, const SolveLaunch& launch) {
  return part.importance != nullptr && launch.form != Form::kAsFound;
}

/// What an element with weight w and importance h adds to the group's weighted errors.
__device__ __forceinline__ void weigh_error(float w, float h, const CodeGrid& grid, float largest_code,
                                            float (&terms)[2]) {
  const float q = sub(magic_code(add(mul(w, grid.S), grid.z), largest_code), kMagic);
  const float e = sub(w, mul(sub(q, grid.zero), grid.s));
  terms[0] = mul(mul(h, e), e);
  terms[1] = mul(mul(h, w), w);
}

}  // namespace halfquad::cuda
