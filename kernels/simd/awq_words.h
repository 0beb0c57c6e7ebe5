#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace halfquad::simd {

/// Where a word of AWQ takes its codes from: the code in bits 4·i is row rows[i]'s.
using AwqRows = std::array<const std::uint8_t*, 8>;

/// Words of the first columns of eight rows of codes below 16, as many as come in whole vectors. Returns how many.
std::size_t awq_words(const AwqRows& rows, std::size_t columns, std::uint32_t* words) noexcept;

/// Column i of 16 rows of words, each `stride` words after the one before, to the 64 bytes at out + i * out_stride, for
/// the first columns, as many as come in whole vectors. Returns how many.
std::size_t awq_columns(const std::uint32_t* words, std::size_t stride, std::size_t columns, std::byte* out,
                        std::ptrdiff_t out_stride) noexcept;

}  // namespace halfquad::simd
