#include "kernels/cuda/find_part.cuh"
#include "kernels/cuda/launch_shapes.h"
#include "kernels/cuda/register_group.cuh"

// Groups of 64 or 128 weights a row apart, one thread each: neighbouring threads read and write neighbouring places,
// and what is packed together is a thread's own.

namespace halfquad::cuda {
namespace {

template <Float kSource, int kElems>
__device__ __forceinline__ void load_column(const unsigned char* source, std::int64_t column, std::int64_t cols,
                                            float (&w)[kElems]) {
#pragma unroll
  for (int k = 0; k < kElems; ++k, column += cols) w[k] = load_weight<kSource>(source, column);
}

template <int kElems>
__device__ __forceinline__ void load_column_of(Float source, const unsigned char* from, std::int64_t column,
                                               std::int64_t cols, float (&w)[kElems]) {
  if (source == Float::kBF16) {
    load_column<Float::kBF16>(from, column, cols, w);
  } else if (source == Float::kF16) {
    load_column<Float::kF16>(from, column, cols, w);
  } else if (source == Float::kF32) {
    load_column<Float::kF32>(from, column, cols, w);
  } else {
    load_column<Float::kF64>(from, column, cols, w);
  }
}

template <int kElems>
__device__ __forceinline__ unsigned code(const unsigned (&codes)[kElems / 4], int k) {
  return (codes[k / 4] >> (8 * (k % 4))) & 0xFFU;
}

/// Packs the column's codes, `kSlabs` to an element of one byte, and stores them `cols` apart.
template <int kElems, int kSlabs>
__device__ __forceinline__ void pack_column(const unsigned (&codes)[kElems / 4], unsigned char* to, std::int64_t cols) {
  constexpr int kWords = kElems / 4 / kSlabs;
#pragma unroll
  for (int word = 0; word < kWords; ++word) {
    unsigned packed = 0;  // four elements side by side
#pragma unroll
    for (int slab = 0; slab < kSlabs; ++slab) packed = (packed << (8 / kSlabs)) | codes[slab * kWords + word];
#pragma unroll
    for (int k = 0; k < 4; ++k, to += cols) *to = static_cast<unsigned char>(packed >> (8 * k));
  }
}

/// The same for ten codes of three bits to an element of four bytes; the last slab is padded with zeros.
template <int kElems>
__device__ __forceinline__ void pack_column_wide(const unsigned (&codes)[kElems / 4], unsigned char* to,
                                                 std::int64_t cols) {
  constexpr int kRows = (kElems + 9) / 10;
#pragma unroll
  for (int row = 0; row < kRows; ++row, to += 4 * cols) {
    unsigned packed = 0;
#pragma unroll
    for (int slab = 0; slab < 10; ++slab) {
      const int k = slab * kRows + row;
      packed = (packed << 3) | (k < kElems ? code<kElems>(codes, k < kElems ? k : 0) : 0U);
    }
    *reinterpret_cast<unsigned*>(to) = packed;
  }
}

template <int kElems, bool kErrors>
__global__ void __launch_bounds__(kThreads, blocks_with_registers(kElems))
    columns_kernel(const __grid_constant__ SolveLaunch launch) {
  __shared__ float step_rows[kErrors ? kWarps * kStepFloats : 1];
  const Part& part = find_part(launch);
  const std::int64_t column = (static_cast<std::int64_t>(blockIdx.x) - part.first_block) * kThreads + threadIdx.x;
  const bool mine = column < part.cols;
  float w[kElems];
  if (mine) {
    load_column_of(launch.source, part.source[0], column, part.cols, w);
  } else {
#pragma unroll
    for (int k = 0; k < kElems; ++k) w[k] = 0;
  }
  __syncwarp();
  unsigned codes[kElems / 4];
  float* const rows = step_rows + (kErrors ? static_cast<int>(threadIdx.x) / 32 * kStepFloats : 0);
  solve_group<ColumnOrder<kElems>, kErrors>(w, mine, column, part, launch, rows, codes);
  if (!mine) return;
  unsigned char* const to = part.codes + column * (launch.wide ? 4 : 1);
  if (launch.slabs == 1) pack_column<kElems, 1>(codes, to, part.cols);
  if (launch.slabs == 2) pack_column<kElems, 2>(codes, to, part.cols);
  if (launch.slabs == 4) pack_column<kElems, 4>(codes, to, part.cols);
  if (launch.slabs == 8) pack_column<kElems, 8>(codes, to, part.cols);
  if (launch.slabs == 10) pack_column_wide<kElems>(codes, to, part.cols);
}

template <int kElems>
void start(const SolveLaunch& launch, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(launch.blocks);
  if (launch.record) {
    columns_kernel<kElems, true><<<blocks, kThreads, 0, stream>>>(launch);
  } else {
    columns_kernel<kElems, false><<<blocks, kThreads, 0, stream>>>(launch);
  }
}

}  // namespace

cudaError_t launch_columns(int group_elems, const SolveLaunch& launch, cudaStream_t stream) {
  if (group_elems == 64) start<64>(launch, stream);
  if (group_elems == 128) start<128>(launch, stream);
  return cudaGetLastError();
}

}  // namespace halfquad::cuda
