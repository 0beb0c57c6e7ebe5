#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

/// Parts of the packers in kernels/row_pack.h. Each does the first elements, as many as come in whole vectors, and
/// returns how many; the rest is the caller's.
namespace halfquad::simd {

/// Codes of `bits` bits, a byte each, to a dense stream of them. Whole bytes of the stream: 0 for other widths than 2
/// and 4 bits.
[[nodiscard]] std::size_t pack_stream(int bits, const std::uint8_t* codes, std::size_t count, std::byte* out) noexcept;

/// Where a word of AWQ takes its codes from: that in bits 4·i from rows[i].
using AwqRows = std::array<const std::uint8_t*, 8>;

/// Words of `columns` columns of eight rows of codes below 16.
[[nodiscard]] std::size_t awq_words(const AwqRows& rows, std::size_t columns, std::uint32_t* words) noexcept;

/// Rows of words, each `stride` words after the one before.
struct WordBlock {
  const std::uint32_t* words = nullptr;
  std::size_t stride = 0;
  std::size_t rows = 0;
  std::size_t columns = 0;
};

/// Column i of the block to out + i * out_stride. None when the number of rows is odd.
[[nodiscard]] std::size_t store_columns(const WordBlock& block, std::byte* out, std::ptrdiff_t out_stride) noexcept;

}  // namespace halfquad::simd
