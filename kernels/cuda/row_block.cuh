#pragma once

#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launch_shapes.h"

// Rows of groups on their way into a block, 16 bytes at a time, and their codes on the way out.

namespace halfquad::cuda {

inline constexpr int kCodeStride =
    128 + 16;  ///< Bytes of shared memory for the codes of a group: in other banks than the next's.

template <Float kSource>
inline constexpr int kSourceBytes = kSource == Float::kF64   ? 8
                                    : kSource == Float::kF32 ? 4
                                                             : 2;

/// The float with these bits. The compiler would keep the integer and convert it wherever it is used.
__device__ __forceinline__ float kept_as_float(unsigned bits) {
  float value;
  asm("mov.b32 %0, %1;" : "=f"(value) : "r"(bits));
  return value;
}

/// The weights in 16 bytes.
template <Float kSource>
__device__ __forceinline__ void widen(const uint4& raw, float* w) {
  const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (kSource == Float::kF32) {
      w[i] = kept_as_float(words[i]);
    } else if constexpr (kSource == Float::kBF16) {
      w[2 * i] = kept_as_float(words[i] << 16);
      w[2 * i + 1] = kept_as_float(words[i] & 0xFFFF0000U);
    } else if constexpr (kSource == Float::kF16) {
      w[2 * i] = widen_f16(static_cast<unsigned short>(words[i]));
      w[2 * i + 1] = widen_f16(static_cast<unsigned short>(words[i] >> 16));
    } else if (i % 2 == 0) {
      w[i / 2] = __double2float_rn(__hiloint2double(static_cast<int>(words[i + 1]), static_cast<int>(words[i])));
    }
  }
}

__device__ __forceinline__ int source_bytes_of(Float source) {
  return source == Float::kF64 ? 8 : source == Float::kF32 ? 4 : 2;
}

/// Packs the codes that the block left in `stage`, `rows` groups of each slab after the other, and stores them.
/// kWide: elements of four bytes, else of one.
template <int kElems, bool kWide>
__device__ __forceinline__ void pack_elements(const unsigned char* stage, int rows, std::int64_t first_row,
                                              const Part& part, const SolveLaunch& launch) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * (kElems / 4); i += kThreads) {
    const int row = i / (kElems / 4), word = i % (kElems / 4);
    if (first_row + row >= part.packed_rows) return;
    const std::int64_t to = (first_row + row) * (kElems / 4) + word;
    const unsigned char* from = stage + row * kCodeStride + word * 4;
    unsigned packed[kWide ? 4 : 1] = {};
    for (int slab = 0; slab < launch.slabs; ++slab, from += rows * kCodeStride) {
      const unsigned codes = *reinterpret_cast<const unsigned*>(from);
#pragma unroll
      for (int k = 0; k < (kWide ? 4 : 1); ++k) {
        // Four elements of a byte go side by side: no code reaches its neighbour's bits.
        packed[k] = (packed[k] << launch.slab_bits) | (kWide ? (codes >> (8 * k)) & 0xFFU : codes);
      }
    }
    if constexpr (kWide) {
      reinterpret_cast<uint4*>(part.codes)[to] = make_uint4(packed[0], packed[1], packed[2], packed[3]);
    } else {
      reinterpret_cast<unsigned*>(part.codes)[to] = packed[0];
    }
  }
}

template <int kElems>
__device__ __forceinline__ void pack_block(const unsigned char* stage, int rows, std::int64_t first_row,
                                           const Part& part, const SolveLaunch& launch) {
  if (launch.wide) {
    pack_elements<kElems, true>(stage, rows, first_row, part, launch);
  } else {
    pack_elements<kElems, false>(stage, rows, first_row, part, launch);
  }
}

}  // namespace halfquad::cuda
