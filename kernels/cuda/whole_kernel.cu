#include "kernels/cuda/quad_rows.cuh"
#include "kernels/cuda/weighed_whole_group.cuh"

// Groups of 32, 64 or 128 consecutive weights, searched for whole zeros.

namespace halfquad::cuda {
namespace {

template <int kElems>
struct WholeRegisters : QuadRegisters<kElems> {
  using Count = int;  // 128 products of 15 and 8 bits fit
  static constexpr int kEach = kElems / kQuad;
  const float* row = nullptr;
  int whole[kEach];

  __device__ __forceinline__ void load(const float* from) {
    QuadRegisters<kElems>::load(from);
    row = from;
  }
  __device__ __forceinline__ void begin_whole(float scale) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) whole[i] = __float2int_rn(mul(this->w(i), scale));
  }
  [[nodiscard]] __device__ __forceinline__ int x(int i) const { return whole[i]; }
  [[nodiscard]] static constexpr __device__ __forceinline__ unsigned longest() { return kElems; }
  [[nodiscard]] __device__ __forceinline__ float at(unsigned k) const { return row[k]; }
};

struct WholeFinder {
  template <int kElems>
  using Registers = WholeRegisters<kElems>;
  static constexpr int blocks(int elems) { return blocks_with_whole(elems); }

  static __device__ __forceinline__ unsigned met_in(const Range& range, const SolveLaunch& launch) {
    return WholeSpan::met_in(range, launch);
  }
  template <int kElems>
  static __device__ __forceinline__ Grid find(WholeRegisters<kElems>& group, const Range& range,
                                              const SolveLaunch& launch) {
    return search_whole(group, range, launch);
  }
};

struct WeighedWholeFinder : WholeFinder {
  template <int kElems>
  using Registers = WeighedRegisters<kElems>;

  template <int kElems>
  static __device__ __forceinline__ Grid find(const WeighedRegisters<kElems>& group, const Range& range,
                                              const SolveLaunch& launch) {
    return search_weighed_whole(group, range, launch);
  }
};

}  // namespace

cudaError_t launch_whole_rows(int group_elems, const SolveLaunch& launch, cudaStream_t stream) {
  return launch_quad_rows<WholeFinder>(group_elems, launch, stream);
}

cudaError_t launch_weighed_whole_rows(int group_elems, const SolveLaunch& launch, cudaStream_t stream) {
  return launch_quad_rows<WeighedWholeFinder>(group_elems, launch, stream);
}

}  // namespace halfquad::cuda
