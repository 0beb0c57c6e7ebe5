#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "runtime/dtype.h"

namespace halfquad {

/// Scalar conversions, exact or rounded once to nearest even. NaN stays NaN.
[[nodiscard]] float f16_to_f32(std::uint16_t bits) noexcept;
[[nodiscard]] float bf16_to_f32(std::uint16_t bits) noexcept;
[[nodiscard]] std::uint16_t f32_to_f16(float value) noexcept;
[[nodiscard]] std::uint16_t f32_to_bf16(float value) noexcept;

/// `count` weights of `dtype` (F32, F16, BF16, F64) as fp32.
void decode_to_f32(const std::byte* in, DType dtype, std::int64_t count, float* out) noexcept;

/// fp32 values stored as `dtype` (F32, F16, BF16), each rounded once.
void encode_from_f32(const float* in, DType dtype, std::int64_t count, std::byte* out) noexcept;

/// `value` after one rounding to `dtype` (F32, F16, BF16).
[[nodiscard]] float round_to(DType dtype, float value) noexcept;

/// Index of the first NaN or infinity of `count` weights (an F64 beyond fp32 counts), if any.
[[nodiscard]] std::optional<std::int64_t> find_nonfinite(const std::byte* data, DType dtype,
                                                         std::int64_t count) noexcept;

/// Sets every NaN and infinity to +0 and returns how many there were.
std::int64_t zero_nonfinite(std::byte* data, DType dtype, std::int64_t count) noexcept;

}  // namespace halfquad
