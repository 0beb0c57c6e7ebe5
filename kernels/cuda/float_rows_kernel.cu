#include "kernels/cuda/find_part.cuh"
#include "kernels/cuda/group_grid.cuh"
#include "kernels/cuda/launch_shapes.h"
#include "kernels/cuda/row_block.cuh"

// Groups of 16 or 32 consecutive weights that become codes of E2M1, one thread each: kernels/float_grid.h says which
// scales are tried, kernels/reference/float_grid.cpp how. Codes stay one to a byte.

namespace halfquad::cuda {
namespace {

constexpr int kCodeZero = 12;

/// The group's weights, and how much their columns count.
template <int kElems>
struct FloatGroup {
  float w[kElems], h[kElems];
};

template <Float kSource, int kElems>
__device__ __forceinline__ void load_group(const unsigned char* source, std::int64_t group, float (&w)[kElems]) {
  constexpr int kWeights = 16 / kSourceBytes<kSource>;
  const auto* const from = reinterpret_cast<const uint4*>(source) + group * (kElems / kWeights);
#pragma unroll
  for (int i = 0; i < kElems / kWeights; ++i) widen<kSource>(__ldg(from + i), w + i * kWeights);
}

template <int kElems>
__device__ __forceinline__ void load_weights(Float source, const unsigned char* from, std::int64_t group,
                                             float (&w)[kElems]) {
  if (source == Float::kBF16) {
    load_group<Float::kBF16>(from, group, w);
  } else if (source == Float::kF16) {
    load_group<Float::kF16>(from, group, w);
  } else if (source == Float::kF32) {
    load_group<Float::kF32>(from, group, w);
  } else {
    load_group<Float::kF64>(from, group, w);
  }
}

/// Groups end where rows do, or before.
template <int kElems>
__device__ __forceinline__ void load_importance(const Part& part, std::int64_t group, float (&h)[kElems]) {
  if (part.importance == nullptr) return;
  const float* const from = part.importance + (part.first_col[0] + group * kElems) % part.tensor_cols;
#pragma unroll
  for (int k = 0; k < kElems; ++k) h[k] = __ldg(from + k);
}

/// |w| in steps of E2M1 doubled: 0, 1, 2, 3, 4, 6, 8 or 12.
__device__ __forceinline__ float steps_of(float w, float inverse_scale) {
  const float x = mul(fabsf(w), inverse_scale);
  const float unit = x < 4 ? 1.0F : x < 8 ? 2.0F : 4.0F;
  const float inverse_unit = x < 4 ? 1.0F : x < 8 ? 0.5F : 0.25F;
  return fminf(12.0F, mul(rintf(mul(x, inverse_unit)), unit));
}

/// The code of E4M3 nearest to a number that is not negative.
__device__ __forceinline__ int narrow_e4m3(float value) {
  if (value < 0x1p-6F) {  // subnormal: beside 2^14 a float is a multiple of 2^-9
    return static_cast<int>(__float_as_uint(add(value, 0x1p14F)) - __float_as_uint(0x1p14F));
  }
  const unsigned normal = __float_as_uint(value) - (120U << 23);
  return static_cast<int>(min(0x7EU, (normal + 0x7FFFFU + (normal >> 20 & 1U)) >> 20));
}

__device__ __forceinline__ int clamped(int byte, const FloatValues& values) {
  return min(max(byte, values.lowest), values.highest);
}

__device__ __forceinline__ int first_byte(float largest, const FloatValues& values) {
  const int exact = values.e4m3 ? narrow_e4m3(mul(values.tensor_scale, div(largest, 6.0F)))
                                : static_cast<int>(__float_as_uint(largest) >> 23) - 2;
  return clamped(exact, values);
}

template <int kElems>
__device__ __forceinline__ float objective(const FloatGroup<kElems>& group, float scale, float inverse) {
  float sum = 0;
#pragma unroll
  for (int k = 0; k < kElems; ++k) {
    const float e = sub(fabsf(group.w[k]), mul(steps_of(group.w[k], inverse), scale));
    sum = add(sum, mul(mul(group.h[k], e), e));
  }
  return sum;
}

template <int kElems>
__device__ __forceinline__ int best_byte(const FloatGroup<kElems>& group, int first, const FloatTable& table,
                                         const FloatValues& values) {
  if (values.offsets == 1) return first;
  int best = first;
  float least = objective(group, __ldg(&table.scale[first]), __ldg(&table.inverse[first]));
#pragma unroll 1
  for (int i = 1; i < values.offsets; ++i) {
    const int byte = clamped(first + __ldg(&table.offsets[i]), values);
    const float found = objective(group, __ldg(&table.scale[byte]), __ldg(&table.inverse[byte]));
    if (!(found < least)) continue;
    least = found;
    best = byte;
  }
  return best;
}

template <int kElems>
__device__ __forceinline__ void store_codes(const FloatGroup<kElems>& group, float inverse, unsigned char* to) {
#pragma unroll
  for (int i = 0; i < kElems / 16; ++i) {
    unsigned words[4] = {};
#pragma unroll
    for (int k = 0; k < 16; ++k) {
      const float w = group.w[16 * i + k];
      const int steps = __float2int_rn(steps_of(w, inverse));
      const int code = kCodeZero + ((__float_as_uint(w) >> 31) != 0 ? -steps : steps);
      words[k / 4] |= static_cast<unsigned>(code) << (8 * (k % 4));
    }
    reinterpret_cast<uint4*>(to)[i] = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

/// Sums as those of consecutive weights are: element k belongs to running sum k mod 8 of these few, which follow each
/// other.
template <int kElems>
__device__ __forceinline__ void sum_errors(const FloatGroup<kElems>& group, float scale, float inverse,
                                           GroupErrors& errors, WeightedErrors& weighted) {
  float total[5] = {};
#pragma unroll
  for (int l = 0; l < 8; ++l) {
    float lane[5];
#pragma unroll
    for (int k = l; k < kElems; k += 8) {
      const float w = group.w[k], h = group.h[k];
      const float e = sub(fabsf(w), mul(steps_of(w, inverse), scale));
      const float terms[5] = {fabsf(e), mul(e, e), mul(w, w), mul(mul(h, e), e), mul(mul(h, w), w)};
#pragma unroll
      for (int n = 0; n < 5; ++n) lane[n] = k == l ? terms[n] : add(lane[n], terms[n]);
      errors.largest = fmaxf(errors.largest, terms[0]);
    }
#pragma unroll
    for (int n = 0; n < 5; ++n) total[n] = add(total[n], lane[n]);
  }
  errors.abs = total[0];
  errors.square = total[1];
  errors.weight2 = total[2];
  weighted = {total[3], total[4]};
}

template <int kElems>
__global__ void __launch_bounds__(kThreads, blocks_with_floats(kElems))
    float_rows_kernel(const __grid_constant__ SolveLaunch launch) {
  const Part& part = find_part(launch);
  const std::int64_t row = (static_cast<std::int64_t>(blockIdx.x) - part.first_block) * kThreads + threadIdx.x;
  const bool mine = row < part.rows[0];
  FloatGroup<kElems> group;
#pragma unroll
  for (int k = 0; k < kElems; ++k) {
    group.w[k] = 0;
    group.h[k] = 1.0F;
  }
  if (mine) {
    load_weights(launch.source, part.source[0], row, group.w);
    load_importance(part, row, group.h);
  }
  bool finite = true;
  float largest = 0;
#pragma unroll
  for (int k = 0; k < kElems; ++k) {
    finite = finite && is_finite(group.w[k]);
    largest = fmaxf(largest, fabsf(group.w[k]));
  }
  if (!finite) {  // adds nothing anywhere
#pragma unroll
    for (int k = 0; k < kElems; ++k) group.w[k] = 0;
    largest = 0;
  }
  const FloatTable& table = *launch.float_table;
  const int byte = best_byte(group, first_byte(largest, launch.floats), table, launch.floats);
  const float scale = __ldg(&table.scale[byte]), inverse = __ldg(&table.inverse[byte]);
  GroupErrors errors;
  WeightedErrors weighted;
  sum_errors(group, scale, inverse, errors, weighted);
  __syncwarp();
  add_errors(errors, *part.sums);
  if (part.importance != nullptr) add_errors(weighted, *part.sums);
  if (!mine) return;
  store_codes(group, inverse, part.codes + row * kElems);
  store_value(launch.stored, part.scale, row, scale);
  store_value(launch.stored, part.zero, row, static_cast<float>(kCodeZero));
  const unsigned met = !finite ? kMetNonfinite : !is_finite(scale) ? kMetUnstorable : 0U;
  if (met != 0) atomicOr(&part.sums->met, met);
}

}  // namespace

cudaError_t launch_float_rows(int group_elems, const SolveLaunch& launch, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(launch.blocks);
  if (group_elems == 16) float_rows_kernel<16><<<blocks, kThreads, 0, stream>>>(launch);
  if (group_elems == 32) float_rows_kernel<32><<<blocks, kThreads, 0, stream>>>(launch);
  return cudaGetLastError();
}

}  // namespace halfquad::cuda
