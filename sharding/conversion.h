#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "io/block_digest.h"
#include "io/byte_range.h"
#include "runtime/dtype.h"

namespace halfquad {

/// Which rows of a source matrix make the rows of an output tensor.
struct RowOrder {
  enum class Kind : std::uint8_t {
    kSame,
    kInterleaved,      ///< Within each head the first half and the second half take turns: 0, n/2, 1, n/2 + 1, ...
    kSlice,            ///< Rows [first, first + count) of each head.
    kTransposedSlice,  ///< The same transposed: an output row holds a column of the slice.
  };
  Kind kind = Kind::kSame;
  std::int64_t head_rows = 0;
  std::int64_t first = 0, count = 0;

  /// Where row `row` of the source goes. @pre kSame or kInterleaved.
  [[nodiscard]] std::int64_t output_row(std::int64_t row) const noexcept;
  friend bool operator==(const RowOrder&, const RowOrder&) = default;
};

/// A tensor that is copied with other values or another dtype: w -> w + add, rounded once to `to`.
struct Conversion {
  DType to = DType::kF32;
  float add = 0;
  RowOrder order;
  std::int64_t rows = 0, cols = 0;  ///< Of each source; a vector is a single row.

  /// Rows of a source that are converted together.
  [[nodiscard]] std::int64_t block_rows() const noexcept;
  [[nodiscard]] std::int64_t blocks() const noexcept;  ///< Of a source.
  struct Block {
    std::int64_t begin = 0, end = 0;  ///< Rows of the source.
    std::uint64_t elements = 0;       ///< Of the output.
    std::uint64_t offset = 0;         ///< Bytes into the source's part of the output.
  };
  [[nodiscard]] Block block(std::int64_t index) const noexcept;
  /// Elements that one source becomes.
  [[nodiscard]] std::uint64_t output_elements() const noexcept;
  /// How the checksum of an output tensor of `sources` of these is cut.
  [[nodiscard]] BlockLayout layout(std::size_t sources) const noexcept;
  /// `weights`: the block's rows as fp32. Writes its elements.
  void apply(const Block& block, std::span<const float> weights, std::byte* out) const;
};

}  // namespace halfquad
