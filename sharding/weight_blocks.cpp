#include "sharding/weight_blocks.h"

#include <algorithm>

namespace halfquad {
namespace {

/// Appends a block, or lengthens the last one when it goes on in the next row.
void append(std::vector<WeightBlock>& blocks, const WeightBlock& next) {
  if (!blocks.empty()) {
    WeightBlock& last = blocks.back();
    if (last.col == next.col && last.cols == next.cols && last.row + last.rows == next.row) {
      last.rows += next.rows;
      return;
    }
  }
  blocks.push_back(next);
}

}  // namespace

std::vector<WeightBlock> weight_blocks(const StoredLayer& layer, std::int64_t tile) {
  std::vector<WeightBlock> blocks;
  std::int64_t offset = 0;
  for (const ByteRange& range : layer.tiles.source_ranges(tile, 1)) {
    const auto end = static_cast<std::int64_t>(range.offset + range.bytes);
    for (auto at = static_cast<std::int64_t>(range.offset); at < end;) {
      const std::int64_t col = at % layer.cols;
      const std::int64_t whole = col == 0 ? (end - at) / layer.cols : 0;
      const std::int64_t cols = whole > 0 ? layer.cols : std::min(layer.cols - col, end - at);
      const std::int64_t rows = std::max<std::int64_t>(1, whole);
      append(blocks, {.row = at / layer.cols, .col = col, .rows = rows, .cols = cols, .offset = offset});
      offset += rows * cols;
      at += rows * cols;
    }
  }
  return blocks;
}

std::vector<std::int64_t> divided_rows(const StoredLayer& layer) {
  std::vector<bool> divided(static_cast<std::size_t>(layer.rows));
  for (std::int64_t tile = 0; tile < layer.tiles.tile_count(); ++tile) {
    for (const WeightBlock& block : weight_blocks(layer, tile)) {
      if (block.cols == layer.cols) continue;
      for (std::int64_t i = 0; i < block.rows; ++i) divided[static_cast<std::size_t>(block.row + i)] = true;
    }
  }
  std::vector<std::int64_t> rows;
  for (std::int64_t row = 0; row < layer.rows; ++row) {
    if (divided[static_cast<std::size_t>(row)]) rows.push_back(row);
  }
  return rows;
}

}  // namespace halfquad
