#pragma once

#include <cstdint>
#include <vector>

#include "sharding/quantized_model.h"

namespace halfquad {

/// A rectangle of a layer's weight matrix. In the tile that holds it, its elements lie back to back, row after row.
struct WeightBlock {
  std::int64_t row = 0, col = 0;  ///< Of its first weight.
  std::int64_t rows = 0, cols = 0;
  std::int64_t offset = 0;  ///< Of its first weight among the tile's elements.
  friend bool operator==(const WeightBlock&, const WeightBlock&) = default;
};

/// What a tile of `layer` holds, in the order of its elements: as few rectangles as that order allows.
[[nodiscard]] std::vector<WeightBlock> weight_blocks(const StoredLayer& layer, std::int64_t tile);

/// Rows of the weight matrix that no single block holds whole, ascending.
[[nodiscard]] std::vector<std::int64_t> divided_rows(const StoredLayer& layer);

}  // namespace halfquad
