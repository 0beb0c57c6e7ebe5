#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/find_part.cuh"
#include "kernels/cuda/launch_shapes.h"

// Codes of one byte become the floats that the solvers read. A kernel of its own leaves the solvers' registers to them:
// what passes through the device's memory for it, nine bytes a weight, is little beside the bus, which is twenty times
// as slow.

namespace halfquad::cuda {
namespace {

constexpr int kQuads = kDecodedOfBlock / kThreads / 4;  // of consecutive weights, one after the other for each thread
static_assert(kQuads * kThreads * 4 == kDecodedOfBlock);

/// What a code means; exact.
template <Code kCode>
__device__ __forceinline__ float meaning(unsigned code) {
  if constexpr (kCode == Code::kE5M2) {
    return widen_f16(static_cast<unsigned short>(code << 8));  // half of an F16, cut off
  } else if constexpr (kCode == Code::kI8) {
    return __int2float_rn(static_cast<signed char>(code));
  } else {
    const unsigned magnitude = code & 0x7FU;
    // With the exponent in the place of a float's it is 2^-120 times as large, subnormal where the code is.
    const float value = mul(__uint_as_float((code & 0x80U) << 24 | magnitude << 20), 0x1p120F);
    return magnitude == 0x7FU ? __uint_as_float(0x7FC00000U) : value;
  }
}

__device__ __forceinline__ float load_scale(CodeScale type, const unsigned char* scales, unsigned i) {
  if (type == CodeScale::kF32) return load_weight<Float::kF32>(scales, i);
  if (type == CodeScale::kBF16) return load_weight<Float::kBF16>(scales, i);
  if (type == CodeScale::kF16) return load_weight<Float::kF16>(scales, i);
  const unsigned code = __ldg(scales + i);  // 2^(code - 127)
  const unsigned bits = code == 0 ? 0x00400000U : code == 255 ? 0x7FC00000U : code << 23;
  return __uint_as_float(bits);
}

__device__ __forceinline__ unsigned divide(unsigned n, const Divisor& by) {
  return static_cast<unsigned>(static_cast<unsigned long long>(n) * by.multiplier >> by.shift);
}

/// A weight's scale, and the weights from it on that share it.
struct Scale {
  float value;
  unsigned weights;
};
__device__ __forceinline__ Scale scale_of(const CodedRun& run, CodeScale type, unsigned weight) {
  const unsigned from_row = run.first_col + weight;
  const unsigned row = divide(from_row, run.cols), col = from_row - row * run.cols.value;
  const unsigned line = divide(run.first_row + row, run.block_rows), block = divide(col, run.block_cols);
  return {load_scale(type, run.scales, line * run.line_scales + block),
          min((block + 1) * run.block_cols.value, run.cols.value) - col};
}

template <Code kCode>
__global__ void __launch_bounds__(kThreads) decode_kernel(const __grid_constant__ DecodeLaunch launch) {
  const CodedRun& run = find_entry(launch.runs, launch.run_count);
  const auto block = static_cast<unsigned>(static_cast<std::int64_t>(blockIdx.x) - run.first_block);
  unsigned first = block * kDecodedOfBlock + threadIdx.x * 4;
  // The last four may be fewer: both buffers are longer, but not the scales.
  for (int quad = 0; quad < kQuads && first < run.count; ++quad, first += kThreads * 4) {
    const unsigned codes = __ldg(reinterpret_cast<const unsigned*>(run.codes + first));
    Scale scale = scale_of(run, launch.scale, first);
    float w[4];
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
      if (scale.weights == 0 && first + i < run.count) scale = scale_of(run, launch.scale, first + i);
      w[i] = mul(meaning<kCode>(codes >> (8 * i) & 0xFFU), scale.value);
      --scale.weights;
    }
    *reinterpret_cast<float4*>(run.weights + first) = make_float4(w[0], w[1], w[2], w[3]);
  }
}

}  // namespace

cudaError_t launch_decode(const DecodeLaunch& launch, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(launch.blocks);
  switch (launch.code) {
    case Code::kE4M3:
      decode_kernel<Code::kE4M3><<<blocks, kThreads, 0, stream>>>(launch);
      break;
    case Code::kE5M2:
      decode_kernel<Code::kE5M2><<<blocks, kThreads, 0, stream>>>(launch);
      break;
    case Code::kI8:
      decode_kernel<Code::kI8><<<blocks, kThreads, 0, stream>>>(launch);
      break;
  }
  return cudaGetLastError();
}

}  // namespace halfquad::cuda
