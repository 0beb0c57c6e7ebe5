#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/block_digest.h"
#include "io/byte_range.h"
#include "kernels/quant_spec.h"
#include "sharding/row_cut.h"

namespace halfquad {

/// Weights in one tile, about: large enough for fast reads, small enough that a few fit any budget. Part of the output
/// format, since checksums follow tile borders: it depends on nothing but the tensor.
inline constexpr std::int64_t kTileWeights = 4 << 20;

/// How one quantized tensor is cut. A tile is what can be read, solved, packed and written alone:
/// - axis 1 (and per tensor): packed rows [begin, end) of the packed matrix, that is one row range in each of the
/// packing's slabs;
/// - axis 0: columns [begin, end) of the grouped matrix, all its rows;
/// - formats of whole rows: these, a packed row being a group.
class TileGeometry {
 public:
  /// Every unit of a RowCut has a number of rows that divides this.
  static constexpr std::int64_t kRowStep = 32;

  /// @pre !why_not(spec, rows, cols).
  TileGeometry(const QuantSpec& spec, std::int64_t rows, std::int64_t cols);
  /// Rows of a tile of whole rows: multiples of `step`, and `least` at least.
  struct TileRows {
    std::int64_t step = kRowStep;  ///< A multiple of kRowStep.
    std::int64_t least = kRowStep;
  };
  /// For formats that keep whole rows, cut as `cuts` says. To the solver it is a matrix of unpacked codes.
  /// @pre axis 1, channel-wise, groups that divide a row.
  [[nodiscard]] static TileGeometry of_whole_rows(const QuantSpec& spec, std::int64_t rows, std::int64_t cols,
                                                  const RowCuts& cuts, const TileRows& tile_rows);

  [[nodiscard]] const GroupedShape& grouped() const noexcept { return grouped_; }
  [[nodiscard]] Packing packing() const noexcept { return packing_; }
  /// Whether tiles are column ranges (axis 0).
  [[nodiscard]] bool by_columns() const noexcept { return by_columns_; }
  [[nodiscard]] std::int64_t packed_rows() const noexcept { return packed_rows_; }

  [[nodiscard]] std::int64_t tile_count() const noexcept;
  [[nodiscard]] std::int64_t tile_extent() const noexcept { return extent_; }  ///< Rows or columns of a full tile.
  [[nodiscard]] std::int64_t tile_begin(std::int64_t tile) const noexcept;
  [[nodiscard]] std::int64_t tile_end(std::int64_t tile) const noexcept;

  /// Rows of the grouped matrix that slab `slab` of packed rows [begin, end) covers; empty where the padding of 3-bit
  /// begins.
  struct RowRange {
    std::int64_t begin = 0, end = 0;
  };
  [[nodiscard]] RowRange slab_rows(int slab, std::int64_t begin, std::int64_t end) const noexcept;

  /// Source bytes of a tile, for elements of `element_bytes`: one range per non-empty slab (axis 1) or per row (axis
  /// 0), ascending and disjoint.
  [[nodiscard]] std::vector<ByteRange> source_ranges(std::int64_t tile, std::int64_t element_bytes) const;
  /// Whether it is of whole rows, and then the rows of the tensor in a tile.
  [[nodiscard]] bool whole_rows() const noexcept { return groups_per_row_ > 0; }
  [[nodiscard]] std::int64_t first_row(std::int64_t tile) const noexcept { return tile_begin(tile) / groups_per_row_; }
  [[nodiscard]] std::int64_t end_row(std::int64_t tile) const noexcept { return tile_end(tile) / groups_per_row_; }
  [[nodiscard]] std::int64_t groups_per_row() const noexcept { return groups_per_row_; }
  [[nodiscard]] const RowCuts& cuts() const noexcept { return cuts_; }

  /// Bytes of the packed codes a tile writes: one range (axis 1), or one per packed row (axis 0); for whole rows as
  /// their cut says.
  [[nodiscard]] std::vector<ByteRange> code_ranges(std::int64_t tile) const;
  /// Bytes of the scale a tile writes, ascending: one range per non-empty slab (axis 1), or one (axis 0). Empty for
  /// per-tensor quantization, whose one scale is written apart.
  [[nodiscard]] std::vector<ByteRange> scale_ranges(std::int64_t tile, std::int64_t element_bytes) const;
  [[nodiscard]] std::vector<ByteRange> zero_ranges(std::int64_t tile, std::int64_t element_bytes) const;

  /// Number of scales (and zeros): grouped().groups, or one for the tensor.
  [[nodiscard]] std::int64_t scale_count() const noexcept { return channel_wise_ ? grouped_.groups : 1; }
  /// Checksum blocks of the packed codes, the scale and the zero: exactly the ranges tiles write.
  [[nodiscard]] BlockLayout code_blocks() const noexcept;
  [[nodiscard]] BlockLayout scale_blocks(std::int64_t element_bytes) const noexcept;
  [[nodiscard]] BlockLayout zero_blocks(std::int64_t element_bytes) const noexcept;

 private:
  GroupedShape grouped_;
  Packing packing_;
  bool channel_wise_ = true;
  bool by_columns_ = false;
  std::int64_t packed_rows_ = 0;
  std::int64_t extent_ = 0;
  std::int64_t groups_per_row_ = 0;  // 0: hqq's own layout
  RowCuts cuts_;
};

/// Checksum blocks of a copied tensor, which are also the chunks it is copied in.
inline constexpr std::uint64_t kCopyBlockBytes = 8 << 20;
[[nodiscard]] BlockLayout copy_blocks(std::uint64_t tensor_bytes) noexcept;

}  // namespace halfquad
