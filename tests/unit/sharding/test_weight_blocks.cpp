#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sharding/weight_blocks.h"
#include "tests/unit/sharding/tiny_output.h"

namespace halfquad {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

StoredLayer layer_of(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  return {.module = "layer", .spec = spec, .rows = rows, .cols = cols, .tiles = TileGeometry(spec, rows, cols)};
}

QuantSpec spec_of(CodeWidth width, std::int64_t group_size, int axis) {
  QuantSpec spec;
  spec.width = width;
  spec.group_size = group_size;
  spec.axis = axis;
  return spec;
}

/// Compares the blocks of all tiles with a walk over the tiles' elements, one by one.
void expect_every_weight_once(const StoredLayer& layer) {
  const auto size = static_cast<std::size_t>(layer.rows * layer.cols);
  std::vector<int> seen(size);
  std::vector<std::int64_t> parts(static_cast<std::size_t>(layer.rows));
  for (std::int64_t tile = 0; tile < layer.tiles.tile_count(); ++tile) {
    std::vector<std::int64_t> elements;
    for (const ByteRange& range : layer.tiles.source_ranges(tile, 1)) {
      for (std::uint64_t i = 0; i < range.bytes; ++i) elements.push_back(static_cast<std::int64_t>(range.offset + i));
    }
    for (const WeightBlock& block : weight_blocks(layer, tile)) {
      ASSERT_GT(block.rows, 0);
      ASSERT_LE(block.col + block.cols, layer.cols);
      for (std::int64_t i = 0; i < block.rows; ++i) {
        if (block.cols == layer.cols) ++parts[static_cast<std::size_t>(block.row + i)];
        for (std::int64_t j = 0; j < block.cols; ++j) {
          const std::int64_t weight = (block.row + i) * layer.cols + block.col + j;
          ASSERT_EQ(elements.at(static_cast<std::size_t>(block.offset + i * block.cols + j)), weight);
          ++seen[static_cast<std::size_t>(weight)];
        }
      }
    }
  }
  EXPECT_EQ(seen, std::vector<int>(size, 1));
  std::vector<std::int64_t> divided;
  for (std::int64_t row = 0; row < layer.rows; ++row) {
    if (parts[static_cast<std::size_t>(row)] == 0) divided.push_back(row);
  }
  EXPECT_EQ(divided_rows(layer), divided);
}

TEST(WeightBlocks, HoldEveryWeightOnceForLayersOfEveryKind) {
  for (const test::ModelLayer& model : test::every_kind_of_layer()) {
    SCOPED_TRACE(model.module);
    expect_every_weight_once(layer_of(model.spec, model.rows, model.cols));
  }
}

TEST(WeightBlocks, HoldEveryWeightOnceOfLayersOfSeveralTiles) {
  for (const QuantSpec& spec : {spec_of(CodeWidth::k4, 64, 1), spec_of(CodeWidth::k3, 64, 1),
                                spec_of(CodeWidth::k4, 64, 0), spec_of(CodeWidth::k8, 0, 0)}) {
    SCOPED_TRACE(spec.group_size);
    const StoredLayer layer = layer_of(spec, 2050, 2112);
    ASSERT_GE(layer.tiles.tile_count(), 2);
    expect_every_weight_once(layer);
  }
}

TEST(WeightBlocks, JoinWholeRowsAndColumnRanges) {
  // Two slabs of 8 rows each, which follow on one another.
  EXPECT_THAT(weight_blocks(layer_of(spec_of(CodeWidth::k4, 64, 1), 16, 64), 0),
              ElementsAre(WeightBlock{.row = 0, .col = 0, .rows = 16, .cols = 64, .offset = 0}));
  // Groups are columns of the tensor: a tile is some of them, in all rows.
  const StoredLayer columns = layer_of(spec_of(CodeWidth::k8, 0, 0), 2050, 2112);
  const std::int64_t width = columns.tiles.tile_extent();
  EXPECT_THAT(weight_blocks(columns, 1),
              ElementsAre(WeightBlock{.row = 0, .col = width, .rows = 2050, .cols = 2112 - width, .offset = 0}));
}

TEST(WeightBlocks, KeepRowsApartThatDoNotFollowOnOneAnother) {
  // The first tile takes the first 1024 rows of each slab of 2048.
  EXPECT_THAT(weight_blocks(layer_of(spec_of(CodeWidth::k4, 64, 1), 4096, 2048), 0),
              ElementsAre(WeightBlock{.row = 0, .col = 0, .rows = 1024, .cols = 2048, .offset = 0},
                          WeightBlock{.row = 2048, .col = 0, .rows = 1024, .cols = 2048, .offset = 1024 * 2048}));
}

TEST(WeightBlocks, DivideRowsAtTheBordersOfTilesOnly) {
  EXPECT_THAT(divided_rows(layer_of(spec_of(CodeWidth::k4, 64, 1), 4096, 2048)), IsEmpty());
  // A slab is 1025 rows; the first tile takes 32768 groups of 64 of each: 992 rows and 2048 weights.
  EXPECT_THAT(divided_rows(layer_of(spec_of(CodeWidth::k4, 64, 1), 2050, 2112)), ElementsAre(992, 2017));
}

}  // namespace
}  // namespace halfquad
