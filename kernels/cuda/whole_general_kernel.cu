#include "kernels/cuda/quad_general.cuh"
#include "kernels/cuda/weighed_whole_group.cuh"

// Groups of consecutive weights of any size, searched for whole zeros.

namespace halfquad::cuda {
namespace {

template <Float kSource>
struct WholeMemory : QuadMemory<kSource> {
  using Count = long long;
  float scale = 1;

  __device__ __forceinline__ void begin_whole(float to_whole) { scale = to_whole; }
  [[nodiscard]] __device__ __forceinline__ int x(unsigned k) const { return __float2int_rn(mul(this->w(k), scale)); }
  [[nodiscard]] __device__ __forceinline__ unsigned longest() const {
    return __reduce_max_sync(kFullWarp, this->elems);
  }
  [[nodiscard]] __device__ __forceinline__ float at(unsigned k) const { return k < this->elems ? this->w(k) : 0.0F; }
};

struct WholeFinder {
  template <Float kSource>
  using Memory = WholeMemory<kSource>;
  static constexpr int kBlocks = kOccupancy.whole_general;

  static __device__ __forceinline__ unsigned met_in(const Range& range, const SolveLaunch& launch) {
    return WholeSpan::met_in(range, launch);
  }
  template <Float kSource>
  static __device__ __forceinline__ Grid find(WholeMemory<kSource>& elements, const Range& range,
                                              const SolveLaunch& launch) {
    return search_whole(elements, range, launch);
  }
  template <Float kSource>
  static __device__ __forceinline__ void fit_to_stored(const WarpWalk& /*walk*/,
                                                       const QuadMemory<kSource>& /*elements*/,
                                                       const SolveLaunch& /*launch*/, Grid& /*grid*/) {}
};

struct WeighedWholeFinder : WholeFinder {
  template <Float kSource>
  using Memory = QuadMemory<kSource>;

  template <Float kSource>
  static __device__ __forceinline__ Grid find(const QuadMemory<kSource>& elements, const Range& range,
                                              const SolveLaunch& launch) {
    return search_weighed_whole(elements, range, launch);
  }
};

}  // namespace

cudaError_t launch_whole_general_rows(const SolveLaunch& launch, cudaStream_t stream) {
  return launch_quad_general<WholeFinder>(launch, stream);
}

cudaError_t launch_weighed_whole_general_rows(const SolveLaunch& launch, cudaStream_t stream) {
  return launch_quad_general<WeighedWholeFinder>(launch, stream);
}

}  // namespace halfquad::cuda
