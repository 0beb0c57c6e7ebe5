#pragma once

#include <cstddef>

namespace halfquad::simd {

/// Stores fp32 values as fp16, each rounded once, as encode_from_f32() does; as many of the first ones as this CPU's
/// conversion instructions take at a time. Returns how many: none without such instructions.
[[nodiscard]] std::size_t narrow_to_f16(const float* in, std::size_t count, std::byte* out) noexcept;

}  // namespace halfquad::simd
