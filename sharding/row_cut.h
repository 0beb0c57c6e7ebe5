#pragma once

#include <cstdint>
#include <vector>

#include "io/block_digest.h"
#include "io/byte_range.h"

namespace halfquad {

/// How a tensor of the output that holds something of every row of a layer is cut by these rows. It consists of equal
/// runs, one after another; in each, every `unit_rows` rows of the layer have `unit_bytes`, and the last unit, which
/// may stand for fewer rows, may be shorter. One run: a tensor that has the layer's rows as rows. Many: a transposed
/// one.
struct RowCut {
  std::int64_t runs = 0;  ///< 0: the format has no such tensor.
  std::uint64_t run_bytes = 0;
  std::int64_t unit_rows = 1;
  std::uint64_t unit_bytes = 0;
  std::uint64_t start = 0;  ///< Where it begins in the tensor, which may hold other layers too.

  /// `rows` of `row_bytes` each.
  [[nodiscard]] static RowCut by_rows(std::int64_t rows, std::uint64_t row_bytes) noexcept;
  /// `lines`, each with one element of `element_bytes` for every row.
  [[nodiscard]] static RowCut by_columns(std::int64_t lines, std::int64_t rows, std::uint64_t element_bytes) noexcept;

  [[nodiscard]] bool empty() const noexcept { return runs == 0; }
  [[nodiscard]] std::uint64_t total_bytes() const noexcept { return static_cast<std::uint64_t>(runs) * run_bytes; }
  /// Where the units of row `row` begin in a run. @pre row is a multiple of unit_rows.
  [[nodiscard]] std::uint64_t offset_of(std::int64_t row) const noexcept;
  /// Bytes of rows [begin, end) in each run. @pre begin is a multiple of unit_rows, end too or the last row.
  [[nodiscard]] std::uint64_t bytes_in_run(std::int64_t begin, std::int64_t end) const noexcept;
  /// All bytes of rows [begin, end), run by run.
  [[nodiscard]] std::vector<ByteRange> ranges(std::int64_t begin, std::int64_t end) const;
  /// Checksum blocks: one for each `tile_rows` rows.
  [[nodiscard]] BlockLayout blocks(std::int64_t tile_rows) const noexcept;

  friend bool operator==(const RowCut&, const RowCut&) = default;
};

/// The tensors that hold one layer. One can hold everything (blocks of GGUF), and symmetric grids have no zero.
struct RowCuts {
  RowCut codes, scale, zero;
};

}  // namespace halfquad
