#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/fp8.h"

namespace halfquad {

/// Integer codes as compressed-tensors packs them into 32-bit little-endian words, without gaps, lowest bits first.
struct PackedIntRows {
  int bits = 4;                      ///< 2 to 8.
  const std::byte* codes = nullptr;  ///< A stream a row, ceil(cols * bits / 32) words long.
  /// A stream a column of the grid, along all rows of the matrix, as [words, grid columns], from the word that holds
  /// the first decoded row's first bit; null: every zero point is 2^(bits - 1).
  const std::byte* zeros = nullptr;
};

/// Bytes of one row's codes.
[[nodiscard]] std::int64_t packed_int_row_bytes(std::int64_t cols, int bits) noexcept;

/// out = (code - zero) * fp32(scale), rounded once. @pre grid.block_rows == 1
void decode_packed_int_rows(const PackedIntRows& packed, const MatrixRows& rows, const ScaleGrid& grid,
                            float* out) noexcept;

}  // namespace halfquad
