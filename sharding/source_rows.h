#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "io/byte_range.h"
#include "sharding/source_tensors.h"

namespace halfquad {

/// Rows [begin, end) of a matrix.
struct SourceRows {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// What to read to decode some rows: ranges of the stored tensors' bytes, ascending.
struct RowSources {
  std::vector<ByteRange> data;   ///< Of LogicalTensor::data. Transposed: one range for each column of the matrix.
  std::vector<ByteRange> scale;  ///< Of LogicalTensor::scale; empty when plain.
  std::vector<ByteRange> zero;   ///< Of LogicalTensor::zero.
};
/// @pre a 2-D tensor, 0 <= rows.begin <= rows.end <= its rows
[[nodiscard]] RowSources sources_of_rows(const LogicalTensor& tensor, SourceRows rows);
/// The bytes of all of them over many rows, for each row.
[[nodiscard]] double stored_bytes_per_row(const LogicalTensor& tensor) noexcept;

/// The bytes of those ranges, one behind the other.
struct RowBytes {
  std::span<const std::byte> data;
  std::span<const std::byte> scale;
  std::span<const std::byte> zero;
};
/// The rows, row-major and without gaps, as elements of tensor.header.dtype: unchanged when plain, else
/// fp32(code) * fp32(scale) with one rounding. @pre out has room for them
void decode_rows(const LogicalTensor& tensor, SourceRows rows, const RowBytes& bytes, std::byte* out) noexcept;

}  // namespace halfquad
