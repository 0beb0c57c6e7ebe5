#include "kernels/cuda/als_group.cuh"
#include "kernels/cuda/quad_general.cuh"

// Groups of consecutive weights of any size, searched by als for zeros of any value.

namespace halfquad::cuda {
namespace {

template <Float kSource>
struct AlsMemory : QuadMemory<kSource> {
  float mean = 0, S1 = 1;
  Cut by_h, by_hd;

  [[nodiscard]] __device__ __forceinline__ float cut_h(unsigned k) const { return cut(this->h(k), by_h); }
  [[nodiscard]] __device__ __forceinline__ float cut_hd(unsigned k) const {
    return cut(mul(cut_h(k), mul(sub(this->w(k), mean), S1)), by_hd);
  }
  __device__ __forceinline__ void begin_fits(float weighted_mean, float inverse_scale, const SolveLaunch& launch) {
    mean = weighted_mean;
    S1 = inverse_scale;
    by_h = launch.cut_h;
    by_hd = launch.cut_hd;
  }
};

struct AlsFinder {
  template <Float kSource>
  using Memory = AlsMemory<kSource>;
  static constexpr int kBlocks = kOccupancy.als_general;

  static __device__ __forceinline__ unsigned met_in(const Range& range, const SolveLaunch& launch) {
    return cuda::met_in(range, launch);
  }
  template <Float kSource>
  static __device__ __forceinline__ Grid find(AlsMemory<kSource>& elements, const Range& range,
                                              const SolveLaunch& launch) {
    const AlsPair pair = search_als(elements, range, launch);
    Grid grid;
    grid.S = pair.S;
    grid.s = div(1.0F, pair.S);
    grid.z = pair.z;
    return grid;
  }

  /// By the whole warp: the zero that fits the scale as it will be stored.
  template <Float kSource>
  static __device__ __forceinline__ void fit_to_stored(const WarpWalk& walk, const QuadMemory<kSource>& elements,
                                                       const SolveLaunch& launch, Grid& grid) {
    if (launch.form == Form::kAsFound) return;
    const float inverse = div(1.0F, grid.s);
    float sums[3];
    walk.sum(
        [&](unsigned k, float(&terms)[3]) {
          const float w = elements.w(k), h = elements.h(k);
          terms[0] = h;
          terms[1] = mul(h, w);
          terms[2] = mul(h, clamped_code(add(mul(w, inverse), grid.z), 0.0F, launch.largest_code));
        },
        sums);
    const float stored_s = fmaxf(round_to(launch.stored, grid.s), kLeastScale);
    grid.z = sub(div(sums[2], sums[0]), div(div(sums[1], sums[0]), stored_s));
  }
};

}  // namespace

cudaError_t launch_als_general_rows(const SolveLaunch& launch, cudaStream_t stream) {
  return launch_quad_general<AlsFinder>(launch, stream);
}

}  // namespace halfquad::cuda
