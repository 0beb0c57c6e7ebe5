#pragma once

#include <cstddef>
#include <cstdint>

namespace halfquad {

/// What a 4-bit E2M1 code means: 0, .5, 1, 1.5, 2, 3, 4, 6 and, from 8 on, their negatives. @pre code <= 15
[[nodiscard]] float e2m1_to_f32(std::uint8_t code) noexcept;

/// The nearest code, ties to even; what is beyond 6 becomes +-6. @pre not NaN
[[nodiscard]] std::uint8_t f32_to_e2m1(float value) noexcept;

/// MXFP4: blocks of 32 E2M1 codes, two to a byte, the first in the low nibble, with a scale of 2^(s - 127) for each.
inline constexpr std::int64_t kMxfp4Block = 32;
inline constexpr std::int64_t kMxfp4BlockBytes = 16;

/// `blocks` blocks as fp32: exact, but for overflow to infinity beyond 2^126. A scale byte of 255 gives NaN.
/// `codes` holds 16 bytes and `scales` one byte a block.
void decode_mxfp4(const std::byte* codes, const std::byte* scales, std::int64_t blocks, float* out) noexcept;
/// The same of ggml's blocks: the scale's byte, then 16 bytes with the block's first half in the low nibbles.
void decode_ggml_mxfp4(const std::byte* in, std::int64_t blocks, float* out) noexcept;

}  // namespace halfquad
