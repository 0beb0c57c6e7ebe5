#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/block_digest.h"
#include "kernels/quant_spec.h"

namespace halfquad {

/// A range of a tensor's bytes.
struct ByteRange {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

/// Bytes of all `ranges` together.
[[nodiscard]] std::uint64_t total_bytes(std::span<const ByteRange> ranges) noexcept;

/// Weights in one tile, about: large enough for fast reads, small enough that a few fit any budget. Part of the output
/// format, since checksums follow tile borders: it depends on nothing but the tensor.
inline constexpr std::int64_t kTileWeights = 4 << 20;

/// How one quantized tensor is cut. A tile is what can be read, solved, packed and written alone:
/// - axis 1 (and per tensor): packed rows [begin, end) of the packed matrix, that is one row range in each of the
/// packing's slabs;
/// - axis 0: columns [begin, end) of the grouped matrix, all its rows.
class TileGeometry {
 public:
  /// @pre !why_not(spec, rows, cols).
  TileGeometry(const QuantSpec& spec, std::int64_t rows, std::int64_t cols);

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
  /// Bytes of the packed codes a tile writes: one range (axis 1), or one per packed row (axis 0).
  [[nodiscard]] std::vector<ByteRange> code_ranges(std::int64_t tile) const;
  /// Bytes of the scale (or zero) a tile writes, ascending: one range per non-empty slab (axis 1), or one (axis 0).
  /// Empty for per-tensor quantization, whose one scale is written apart.
  [[nodiscard]] std::vector<ByteRange> scale_ranges(std::int64_t tile, std::int64_t element_bytes) const;

  /// Number of scales (and zeros): grouped().groups, or one for the tensor.
  [[nodiscard]] std::int64_t scale_count() const noexcept { return channel_wise_ ? grouped_.groups : 1; }
  /// Checksum blocks of the packed codes and of scale or zero: exactly the ranges tiles write.
  [[nodiscard]] BlockLayout code_blocks() const noexcept;
  [[nodiscard]] BlockLayout scale_blocks(std::int64_t element_bytes) const noexcept;

 private:
  GroupedShape grouped_;
  Packing packing_;
  bool channel_wise_ = true;
  bool by_columns_ = false;
  std::int64_t packed_rows_ = 0;
  std::int64_t extent_ = 0;
};

/// Checksum blocks of a copied tensor, which are also the chunks it is copied in.
inline constexpr std::uint64_t kCopyBlockBytes = 8 << 20;
[[nodiscard]] BlockLayout copy_blocks(std::uint64_t tensor_bytes) noexcept;

}  // namespace halfquad
