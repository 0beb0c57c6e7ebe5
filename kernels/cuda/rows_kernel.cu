#include "kernels/cuda/find_part.cuh"
#include "kernels/cuda/launch_shapes.h"
#include "kernels/cuda/register_group.cuh"
#include "kernels/cuda/row_block.cuh"

// Groups of 32, 64 or 128 consecutive weights, one thread each. A block covers some packed rows, in every slab: what it
// needs for packing is all its own.

namespace halfquad::cuda {
namespace {

constexpr int kRowBytes = 128;        // of each group, in shared memory at a time
constexpr int kStride = kCodeStride;  // between groups
static_assert(kStride == kRowBytes + 16 && kWarps * kStepFloats * sizeof(float) <= kThreads * kStride);

/// Every thread's group, from where `rows` says (null: zeros), by way of shared memory: the block reads 16 bytes at
/// consecutive places, whatever thread they are for. The whole block takes part.
template <Float kSource, int kElems>
__device__ __forceinline__ void load_groups(const unsigned char* const* rows, unsigned char* stage,
                                            float (&w)[kElems]) {
  constexpr int kGroupBytes = kElems * kSourceBytes<kSource>;
  constexpr int kPieceBytes = kGroupBytes < kRowBytes ? kGroupBytes : kRowBytes;
  constexpr int kVectors = kPieceBytes / 16;
  constexpr int kRowsAtOnce = kThreads / kVectors;
  constexpr int kWeights = 16 / kSourceBytes<kSource>;
  const int row = static_cast<int>(threadIdx.x) / kVectors, vector = static_cast<int>(threadIdx.x) % kVectors;
#pragma unroll
  for (int piece = 0; piece < kGroupBytes / kPieceBytes; ++piece) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int at = row + i * kRowsAtOnce;
      const unsigned char* const from = rows[at];
      uint4 raw = make_uint4(0, 0, 0, 0);
      if (from != nullptr) raw = __ldg(reinterpret_cast<const uint4*>(from + piece * kPieceBytes) + vector);
      *reinterpret_cast<uint4*>(stage + at * kStride + vector * 16) = raw;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const uint4 raw = *reinterpret_cast<const uint4*>(stage + static_cast<int>(threadIdx.x) * kStride + i * 16);
      widen<kSource>(raw, w + (piece * kVectors + i) * kWeights);
    }
    __syncthreads();
  }
}

template <int kElems>
__device__ __forceinline__ void load_groups_of(Float source, const unsigned char* const* rows, unsigned char* stage,
                                               float (&w)[kElems]) {
  if (source == Float::kBF16) {
    load_groups<Float::kBF16>(rows, stage, w);
  } else if (source == Float::kF16) {
    load_groups<Float::kF16>(rows, stage, w);
  } else if (source == Float::kF32) {
    load_groups<Float::kF32>(rows, stage, w);
  } else {
    load_groups<Float::kF64>(rows, stage, w);
  }
}

template <int kElems, bool kErrors>
__global__ void __launch_bounds__(kThreads, blocks_with_registers(kElems))
    rows_kernel(const __grid_constant__ SolveLaunch launch) {
  __shared__ __align__(16) unsigned char stage[kThreads * kStride];
  __shared__ const unsigned char* groups[kThreads];
  const Part& part = find_part(launch);
  const int rows = kThreads / launch.slabs;
  const std::int64_t first_row = (static_cast<std::int64_t>(blockIdx.x) - part.first_block) * rows;
  const int slab = static_cast<int>(threadIdx.x) / rows;
  const std::int64_t row = first_row + static_cast<int>(threadIdx.x) % rows;
  const bool mine = slab < launch.slabs && row < part.rows[slab];
  groups[threadIdx.x] = mine ? part.source[slab] + row * (kElems * source_bytes_of(launch.source)) : nullptr;
  __syncthreads();

  float w[kElems];
  load_groups_of(launch.source, groups, stage, w);
  unsigned codes[kElems / 4];
  const std::int64_t group = mine ? part.first_group[slab] + row : 0;
  // Each warp has loaded all that it needs from `stage`, and so has every other.
  float* const step_rows = reinterpret_cast<float*>(stage) + static_cast<int>(threadIdx.x) / 32 * kStepFloats;
  solve_group<RowOrder<kElems>, kErrors>(w, mine, group, part, launch, step_rows, codes);
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kElems / 16; ++i) {
    const uint4 sixteen = make_uint4(codes[4 * i], codes[4 * i + 1], codes[4 * i + 2], codes[4 * i + 3]);
    reinterpret_cast<uint4*>(stage + threadIdx.x * kStride)[i] = mine ? sixteen : make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  pack_block<kElems>(stage, rows, first_row, part, launch);
}

template <int kElems>
void start(const SolveLaunch& launch, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(launch.blocks);
  if (launch.record) {
    rows_kernel<kElems, true><<<blocks, kThreads, 0, stream>>>(launch);
  } else {
    rows_kernel<kElems, false><<<blocks, kThreads, 0, stream>>>(launch);
  }
}

}  // namespace

cudaError_t launch_rows(int group_elems, const SolveLaunch& launch, cudaStream_t stream) {
  if (group_elems == 32) start<32>(launch, stream);
  if (group_elems == 64) start<64>(launch, stream);
  if (group_elems == 128) start<128>(launch, stream);
  return cudaGetLastError();
}

}  // namespace halfquad::cuda
