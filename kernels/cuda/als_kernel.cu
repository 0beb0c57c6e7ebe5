#include "kernels/cuda/als_group.cuh"
#include "kernels/cuda/quad_rows.cuh"

// Groups of 32, 64 or 128 consecutive weights, searched by als for zeros of any value.

namespace halfquad::cuda {
namespace {

template <int kElems>
struct AlsRegisters : WeighedRegisters<kElems> {
  static constexpr int kEach = kElems / kQuad;
  float fit_h[kEach], fit_hd[kEach];

  [[nodiscard]] __device__ __forceinline__ float cut_h(int i) const { return fit_h[i]; }
  [[nodiscard]] __device__ __forceinline__ float cut_hd(int i) const { return fit_hd[i]; }

  __device__ __forceinline__ void begin_fits(float mean, float S1, const SolveLaunch& launch) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      fit_h[i] = cut(this->h(i), launch.cut_h);
      fit_hd[i] = cut(mul(fit_h[i], mul(sub(this->w(i), mean), S1)), launch.cut_hd);
    }
  }
};

/// The zero that fits the scale as it will be stored.
template <int kElems>
__device__ __forceinline__ void refit_zero(const AlsRegisters<kElems>& group, const SolveLaunch& launch, Grid& grid) {
  const float inverse = div(1.0F, grid.s);
  float sums[3];
  sum_in_order<kElems>(
      [&](int i, float(&terms)[3]) {
        const float q = clamped_code(add(mul(group.w(i), inverse), grid.z), 0.0F, launch.largest_code);
        terms[0] = group.h(i);
        terms[1] = mul(group.h(i), group.w(i));
        terms[2] = mul(group.h(i), q);
      },
      sums);
  const float stored_s = fmaxf(round_to(launch.stored, grid.s), kLeastScale);
  grid.z = sub(div(sums[2], sums[0]), div(div(sums[1], sums[0]), stored_s));
}

struct AlsFinder {
  template <int kElems>
  using Registers = AlsRegisters<kElems>;
  static constexpr int blocks(int elems) { return blocks_with_als(elems); }

  static __device__ __forceinline__ unsigned met_in(const Range& range, const SolveLaunch& launch) {
    return cuda::met_in(range, launch);
  }
  template <int kElems>
  static __device__ __forceinline__ Grid find(AlsRegisters<kElems>& group, const Range& range,
                                              const SolveLaunch& launch) {
    const AlsPair pair = search_als(group, range, launch);
    Grid grid;
    grid.S = pair.S;
    grid.s = div(1.0F, pair.S);
    grid.z = pair.z;
    if (launch.form != Form::kAsFound) refit_zero(group, launch, grid);
    return grid;
  }
};

}  // namespace

cudaError_t launch_als_rows(int group_elems, const SolveLaunch& launch, cudaStream_t stream) {
  return launch_quad_rows<AlsFinder>(group_elems, launch, stream);
}

}  // namespace halfquad::cuda
