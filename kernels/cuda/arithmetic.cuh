#pragma once

#include "kernels/cuda/solve_kernels.h"

// The canonical arithmetic: every operation rounded by itself, to nearest even, nothing fused, nothing flushed to zero.
// kernels/reference/reference_solver.cpp, kernels/power.cpp and kernels/decode.cpp say what the results are.

namespace halfquad::cuda {

inline constexpr unsigned kFullWarp = 0xFFFFFFFFU;
inline constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23: adding and subtracting it rounds what is below 2^22
inline constexpr float kLargestFloat = 3.402823466e+38F;

__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ float sub(float a, float b) { return __fsub_rn(a, b); }
__device__ __forceinline__ float div(float a, float b) { return __fdiv_rn(a, b); }
__device__ __forceinline__ bool is_finite(float x) { return fabsf(x) <= kLargestFloat; }
__device__ __forceinline__ bool same_bits(float a, float b) { return __float_as_int(a) == __float_as_int(b); }

__device__ __forceinline__ float widen_f16(unsigned short bits) {
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(bits));
  return out;
}
__device__ __forceinline__ unsigned short narrow_f16(float value) {
  unsigned short out;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out) : "f"(value));
  return out;
}
__device__ __forceinline__ float widen_bf16(unsigned short bits) {
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
}
__device__ __forceinline__ unsigned short narrow_bf16(float value) {
  const unsigned bits = __float_as_uint(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<unsigned short>((bits >> 16) | 0x40U);
  return static_cast<unsigned short>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

/// Element `i` of a source.
template <Float kSource>
__device__ __forceinline__ float load_weight(const unsigned char* source, std::int64_t i) {
  if constexpr (kSource == Float::kF32) {
    return __ldg(reinterpret_cast<const float*>(source) + i);
  } else if constexpr (kSource == Float::kF16) {
    return widen_f16(__ldg(reinterpret_cast<const unsigned short*>(source) + i));
  } else if constexpr (kSource == Float::kBF16) {
    return widen_bf16(__ldg(reinterpret_cast<const unsigned short*>(source) + i));
  } else {
    return __double2float_rn(__ldg(reinterpret_cast<const double*>(source) + i));
  }
}

/// `value` after one rounding to the stored type.
__device__ __forceinline__ float round_to(Float stored, float value) {
  if (stored == Float::kF16) return widen_f16(narrow_f16(value));
  if (stored == Float::kBF16) return widen_bf16(narrow_bf16(value));
  return value;
}

__device__ __forceinline__ void store_value(Float stored, unsigned char* to, std::int64_t i, float value) {
  if (stored == Float::kF32) {
    reinterpret_cast<float*>(to)[i] = value;
  } else {
    reinterpret_cast<unsigned short*>(to)[i] = stored == Float::kF16 ? narrow_f16(value) : narrow_bf16(value);
  }
}

/// a^(p-1) for a positive normal `a`.
__device__ __forceinline__ float power(float a, const SolveLaunch& launch) {
  constexpr float kLog2[9] = {0x1.715474p+0F,  -0x1.71546ap-1F, 0x1.ec76f4p-2F,  -0x1.7160e6p-2F, 0x1.268f78p-2F,
                              -0x1.e87ce2p-3F, 0x1.bd3168p-3F,  -0x1.aeb382p-3F, 0x1.00d838p-3F};
  constexpr float kExp2[7] = {0x1p+0F,        0x1.62e430p-1F,  0x1.ebfbe2p-3F, 0x1.c6aec8p-5F,
                              0x1.3b2994p-7F, 0x1.5f4a94p-10F, 0x1.449a9cp-13F};
  const int i = __float_as_int(a);
  const int k = (i - 0x3F3504F3) >> 23;
  const float g = sub(__int_as_float(i - k * (1 << 23)), 1.0F);
  float r = kLog2[8];
#pragma unroll
  for (int j = 7; j >= 0; --j) r = add(mul(r, g), kLog2[j]);
  const float kf = __int2float_rn(k);
  const float t = mul(launch.chi, kf);
  const float u = add(mul(launch.c, mul(g, r)), mul(launch.clo, kf));
  const float n = sub(add(add(t, u), kMagic), kMagic);
  const float f = add(sub(t, n), u);
  float e = kExp2[6];
#pragma unroll
  for (int j = 5; j >= 0; --j) e = add(mul(e, f), kExp2[j]);
  return __int_as_float(__float_as_int(e) + __float2int_rz(n) * (1 << 23));
}

/// The part of an error beyond what the l_p norm pulls to zero.
__device__ __forceinline__ float shrink(float e, float inv_beta, const SolveLaunch& launch) {
  const float a = fabsf(e);
  const float pull = launch.constant_power ? inv_beta : mul(inv_beta, power(a, launch));
  const float x = fmaxf(sub(a, pull), 0.0F);
  return e < 0 ? -x : x;
}

/// The code of x = w * S + z, plus kMagic: its low bits are the code as an integer. Clamping first gives the same code,
/// since rounding is monotonic, and leaves what kMagic can round.
__device__ __forceinline__ float magic_code(float x, float largest_code) {
  return add(fminf(fmaxf(x, 0.0F), largest_code), kMagic);
}

}  // namespace halfquad::cuda
