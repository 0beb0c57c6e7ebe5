#include "kernels/decode.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/simd/narrow.h"
#include "runtime/check.h"

// The loops below are branch-free per element and load through memcpy (sources are not aligned), so that the compiler
// vectorizes them.

namespace halfquad {
namespace {

constexpr std::uint32_t kSign = 0x8000'0000U;
constexpr std::uint32_t kInfinity = 0x7F80'0000U;

template <class T>
T load(const std::byte* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class T>
void store(std::byte* to, T value) noexcept {
  std::memcpy(to, &value, sizeof value);
}

constexpr float widen_f16(std::uint16_t bits) noexcept {
  const std::uint32_t magnitude = bits & 0x7FFFU;
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16U;
  // Fraction and exponent in place, the exponent short of 112: exact for subnormals too. Needed for every input:
  // GCC would put an operation that is not into a branch.
  const float scaled = std::bit_cast<float>(magnitude << 13U) * 0x1p112F;
  const std::uint32_t special = magnitude >= 0x7C00U ? kInfinity : 0U;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(scaled) | special | sign);
}

constexpr float widen_bf16(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U);
}

constexpr std::uint16_t narrow_f16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & ~kSign;
  // Normal: rebias, round at bit 13; a carry out of 65504 gives infinity by itself.
  const std::uint32_t normal = (magnitude - (112U << 23U) + 0xFFFU + ((magnitude >> 13U) & 1U)) >> 13U;
  // Subnormal: beside 0.5 a float is a multiple of 2^-24, so the addition rounds to one.
  const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(0.5F);
  std::uint32_t out = magnitude < (113U << 23U) ? subnormal : normal;
  out = magnitude >= (143U << 23U) ? 0x7C00U : out;
  out = magnitude > kInfinity ? 0x7E00U | ((magnitude >> 13U) & 0x3FFU) : out;
  return static_cast<std::uint16_t>(out | ((bits & kSign) >> 16U));
}

constexpr std::uint16_t narrow_bf16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U;
  const std::uint32_t nan = (bits >> 16U) | 0x40U;
  return static_cast<std::uint16_t>((bits & ~kSign) > kInfinity ? nan : rounded);
}

/// Calls visit(T{}, convert) with the stored type of `dtype` and its conversion to fp32.
template <class Visit>
auto with_source(DType dtype, Visit visit) noexcept {
  HALFQUAD_DCHECK(is_float_source(dtype));
  if (dtype == DType::kF16) return visit(std::uint16_t{}, [](std::uint16_t v) { return widen_f16(v); });
  if (dtype == DType::kBF16) return visit(std::uint16_t{}, [](std::uint16_t v) { return widen_bf16(v); });
  if (dtype == DType::kF64) return visit(double{}, [](double v) { return static_cast<float>(v); });
  return visit(float{}, [](float v) { return v; });
}

bool nonfinite(float value) noexcept { return (std::bit_cast<std::uint32_t>(value) & ~kSign) >= kInfinity; }

}  // namespace

float f16_to_f32(std::uint16_t bits) noexcept { return widen_f16(bits); }
float bf16_to_f32(std::uint16_t bits) noexcept { return widen_bf16(bits); }
std::uint16_t f32_to_f16(float value) noexcept { return narrow_f16(value); }
std::uint16_t f32_to_bf16(float value) noexcept { return narrow_bf16(value); }

void decode_to_f32(const std::byte* in, DType dtype, std::int64_t count, float* out) noexcept {
  const auto n = static_cast<std::size_t>(count);
  if (dtype == DType::kF32) {
    if (n > 0) std::memcpy(out, in, n * sizeof(float));
    return;
  }
  with_source(dtype, [&]<class T>(T, auto convert) {
    for (std::size_t i = 0; i < n; ++i) out[i] = convert(load<T>(in + i * sizeof(T)));
  });
}

void encode_from_f32(const float* in, DType dtype, std::int64_t count, std::byte* out) noexcept {
  const auto n = static_cast<std::size_t>(count);
  if (dtype == DType::kF16) {
    for (std::size_t i = simd::narrow_to_f16(in, n, out); i < n; ++i) store(out + 2 * i, narrow_f16(in[i]));
  } else if (dtype == DType::kBF16) {
    for (std::size_t i = 0; i < n; ++i) store(out + 2 * i, narrow_bf16(in[i]));
  } else {
    HALFQUAD_DCHECK(dtype == DType::kF32);
    if (n > 0) std::memcpy(out, in, n * sizeof(float));
  }
}

float round_to(DType dtype, float value) noexcept {
  if (dtype == DType::kF16) return widen_f16(narrow_f16(value));
  if (dtype == DType::kBF16) return widen_bf16(narrow_bf16(value));
  HALFQUAD_DCHECK(dtype == DType::kF32);
  return value;
}

std::optional<std::int64_t> find_nonfinite(const std::byte* data, DType dtype, std::int64_t count) noexcept {
  constexpr std::size_t kStretch = 4096;  // looked through without a branch, then searched if there is one
  const auto n = static_cast<std::size_t>(count);
  return with_source(dtype, [&]<class T>(T, auto convert) -> std::optional<std::int64_t> {
    for (std::size_t begin = 0; begin < n; begin += kStretch) {
      const std::size_t end = std::min(n, begin + kStretch);
      std::uint32_t any = 0;
      for (std::size_t i = begin; i < end; ++i) {
        any |= nonfinite(convert(load<T>(data + i * sizeof(T)))) ? 1U : 0U;
      }
      for (std::size_t i = begin; any != 0 && i < end; ++i) {
        if (nonfinite(convert(load<T>(data + i * sizeof(T))))) return static_cast<std::int64_t>(i);
      }
    }
    return std::nullopt;
  });
}

std::int64_t zero_nonfinite(std::byte* data, DType dtype, std::int64_t count) noexcept {
  const auto n = static_cast<std::size_t>(count);
  return with_source(dtype, [&]<class T>(T, auto convert) {
    std::int64_t zeroed = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const T value = load<T>(data + i * sizeof(T));
      const bool bad = nonfinite(convert(value));
      store(data + i * sizeof(T), bad ? T{} : value);
      zeroed += bad ? 1 : 0;
    }
    return zeroed;
  });
}

}  // namespace halfquad
