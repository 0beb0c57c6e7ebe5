#include "sharding/tiles.h"

#include <algorithm>

#include "runtime/checked.h"

namespace halfquad {
namespace {

// Tile borders on these multiples keep solver lanes full and scale ranges aligned.
constexpr std::int64_t kRowStep = 16;
constexpr std::int64_t kColumnStep = 64;

std::int64_t full_extent(std::int64_t weights_per_unit, std::int64_t units, std::int64_t step) {
  std::int64_t extent = std::max<std::int64_t>(1, kTileWeights / std::max<std::int64_t>(1, weights_per_unit));
  if (extent > step) extent -= extent % step;
  return std::clamp<std::int64_t>(extent, 1, std::max<std::int64_t>(1, units));
}

std::uint64_t to_bytes(std::int64_t elements, std::int64_t element_bytes) {
  return static_cast<std::uint64_t>(elements) * static_cast<std::uint64_t>(element_bytes);
}

ByteRange byte_range(std::int64_t begin, std::int64_t end, std::int64_t element_bytes) {
  return {to_bytes(begin, element_bytes), to_bytes(end - begin, element_bytes)};
}

}  // namespace

TileGeometry::TileGeometry(const QuantSpec& spec, std::int64_t rows, std::int64_t cols)
    : grouped_(grouped_shape(spec, rows, cols)),
      packing_(packing_of(spec.width)),
      channel_wise_(spec.channel_wise),
      by_columns_(spec.channel_wise && spec.axis == 0),
      packed_rows_(halfquad::packed_rows(packing_, grouped_.rows)),
      extent_(by_columns_ ? full_extent(grouped_.rows, grouped_.cols, kColumnStep)
                          : full_extent(grouped_.cols * slabs_of(packing_), packed_rows_, kRowStep)) {}

TileGeometry TileGeometry::of_whole_rows(const QuantSpec& spec, std::int64_t rows, std::int64_t cols,
                                         const RowCuts& cuts, const TileRows& tile_rows) {
  TileGeometry tiles(spec, rows, cols);
  tiles.groups_per_row_ = cols / tiles.grouped_.cols;
  tiles.cuts_ = cuts;
  tiles.packing_ = Packing::k8BitU8;
  tiles.packed_rows_ = tiles.grouped_.rows;
  const std::int64_t wanted = std::max(kTileWeights / std::max<std::int64_t>(1, cols), tile_rows.least);
  const std::int64_t most = std::max<std::int64_t>(1, wanted / tile_rows.step) * tile_rows.step;
  tiles.extent_ = std::clamp<std::int64_t>(rows, 1, most) * tiles.groups_per_row_;
  return tiles;
}

std::int64_t TileGeometry::tile_count() const noexcept {
  return ceil_div(by_columns_ ? grouped_.cols : packed_rows_, extent_);
}

std::int64_t TileGeometry::tile_begin(std::int64_t tile) const noexcept { return tile * extent_; }

std::int64_t TileGeometry::tile_end(std::int64_t tile) const noexcept {
  return std::min((tile + 1) * extent_, by_columns_ ? grouped_.cols : packed_rows_);
}

TileGeometry::RowRange TileGeometry::slab_rows(int slab, std::int64_t begin, std::int64_t end) const noexcept {
  const std::int64_t first = slab * packed_rows_;
  return {std::min(first + begin, grouped_.rows), std::min(first + end, grouped_.rows)};
}

std::vector<ByteRange> TileGeometry::source_ranges(std::int64_t tile, std::int64_t element_bytes) const {
  std::vector<ByteRange> ranges;
  const std::int64_t begin = tile_begin(tile);
  const std::int64_t end = tile_end(tile);
  if (by_columns_) {
    ranges.reserve(static_cast<std::size_t>(grouped_.rows));
    for (std::int64_t row = 0; row < grouped_.rows; ++row) {
      ranges.push_back(byte_range(row * grouped_.cols + begin, row * grouped_.cols + end, element_bytes));
    }
    return ranges;
  }
  for (int slab = 0; slab < slabs_of(packing_); ++slab) {
    const RowRange rows = slab_rows(slab, begin, end);
    if (rows.begin == rows.end) continue;
    ranges.push_back(byte_range(rows.begin * grouped_.cols, rows.end * grouped_.cols, element_bytes));
  }
  return ranges;
}

std::vector<ByteRange> TileGeometry::code_ranges(std::int64_t tile) const {
  if (whole_rows()) return cuts_.codes.ranges(first_row(tile), end_row(tile));
  const std::int64_t element_bytes = packed_bytes_of(packing_);
  const std::int64_t begin = tile_begin(tile);
  const std::int64_t end = tile_end(tile);
  if (!by_columns_) return {byte_range(begin * grouped_.cols, end * grouped_.cols, element_bytes)};
  std::vector<ByteRange> ranges;
  ranges.reserve(static_cast<std::size_t>(packed_rows_));
  for (std::int64_t row = 0; row < packed_rows_; ++row) {
    ranges.push_back(byte_range(row * grouped_.cols + begin, row * grouped_.cols + end, element_bytes));
  }
  return ranges;
}

std::vector<ByteRange> TileGeometry::scale_ranges(std::int64_t tile, std::int64_t element_bytes) const {
  if (!channel_wise_) return {};
  if (whole_rows()) return cuts_.scale.ranges(first_row(tile), end_row(tile));
  const std::int64_t begin = tile_begin(tile);
  const std::int64_t end = tile_end(tile);
  if (by_columns_) return {byte_range(begin, end, element_bytes)};
  std::vector<ByteRange> ranges;
  for (int slab = 0; slab < slabs_of(packing_); ++slab) {
    const RowRange rows = slab_rows(slab, begin, end);
    if (rows.begin == rows.end) continue;
    ranges.push_back(byte_range(rows.begin, rows.end, element_bytes));
  }
  return ranges;
}

std::vector<ByteRange> TileGeometry::zero_ranges(std::int64_t tile, std::int64_t element_bytes) const {
  return whole_rows() ? cuts_.zero.ranges(first_row(tile), end_row(tile)) : scale_ranges(tile, element_bytes);
}

BlockLayout TileGeometry::code_blocks() const noexcept {
  if (whole_rows()) return cuts_.codes.blocks(extent_ / groups_per_row_);
  const std::int64_t element_bytes = packed_bytes_of(packing_);
  const std::uint64_t row_bytes = to_bytes(grouped_.cols, element_bytes);
  const std::uint64_t total = row_bytes * static_cast<std::uint64_t>(packed_rows_);
  if (by_columns_) return {total, row_bytes, to_bytes(extent_, element_bytes)};
  return {total, total, row_bytes * static_cast<std::uint64_t>(extent_)};
}

BlockLayout TileGeometry::zero_blocks(std::int64_t element_bytes) const noexcept {
  return whole_rows() ? cuts_.zero.blocks(extent_ / groups_per_row_) : scale_blocks(element_bytes);
}

BlockLayout TileGeometry::scale_blocks(std::int64_t element_bytes) const noexcept {
  if (whole_rows()) return cuts_.scale.blocks(extent_ / groups_per_row_);
  const std::uint64_t total = to_bytes(scale_count(), element_bytes);
  if (!channel_wise_) return {total, total, total};
  const std::uint64_t run = by_columns_ ? total : std::min(total, to_bytes(packed_rows_, element_bytes));
  return {total, run, to_bytes(extent_, element_bytes)};
}

BlockLayout copy_blocks(std::uint64_t tensor_bytes) noexcept { return {tensor_bytes, tensor_bytes, kCopyBlockBytes}; }

}  // namespace halfquad
