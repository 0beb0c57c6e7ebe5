#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sharding/tiles.h"

namespace halfquad {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

QuantSpec make_spec(CodeWidth width, std::int64_t group_size, int axis) {
  QuantSpec spec;
  spec.width = width;
  spec.group_size = group_size;
  spec.axis = axis;
  return spec;
}

struct Case {
  QuantSpec spec;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::string name;
};

/// Small, odd and large shapes in every width, both axes, whole rows and per tensor.
std::vector<Case> cases() {
  struct Shape {
    std::int64_t rows, cols;
  };
  const std::vector<Shape> shapes = {{8, 8},      {16, 64},    {24, 96},     {13, 32},   {7, 96},
                                     {100, 1024}, {768, 3072}, {4096, 4096}, {8, 50000}, {28672, 1024}};
  std::vector<Case> all;
  for (const CodeWidth width :
       {CodeWidth::k8, CodeWidth::k4, CodeWidth::k3, CodeWidth::k2, CodeWidth::k1_58, CodeWidth::k1, CodeWidth::k5}) {
    for (const Shape& shape : shapes) {
      for (const int axis : {0, 1}) {
        for (const std::int64_t group : {0, 8, 64, 256, -1}) {
          QuantSpec spec = make_spec(width, std::max<std::int64_t>(group, 0), axis);
          spec.channel_wise = group >= 0;
          if (why_not(spec, shape.rows, shape.cols)) continue;
          all.push_back({spec, shape.rows, shape.cols,
                         std::string(name_of(width)) + " bit, group " + std::to_string(group) + ", axis " +
                             std::to_string(axis) + ", " + std::to_string(shape.rows) + "x" +
                             std::to_string(shape.cols)});
        }
      }
    }
  }
  return all;
}

bool partitions(std::vector<ByteRange> ranges, std::uint64_t total) {
  std::ranges::sort(ranges, {}, &ByteRange::offset);
  std::uint64_t next = 0;
  for (const ByteRange& range : ranges) {
    if (range.bytes == 0 || range.offset != next) return false;
    next += range.bytes;
  }
  return next == total;
}

bool ascends(const std::vector<ByteRange>& ranges) {
  for (std::size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].offset < ranges[i - 1].offset + ranges[i - 1].bytes) return false;
  }
  return true;
}

/// Every block of `layout`, by its definition.
std::vector<ByteRange> blocks_of(const BlockLayout& layout) {
  std::vector<ByteRange> blocks;
  for (std::uint64_t run = 0; run < layout.total_bytes; run += layout.run_bytes) {
    const std::uint64_t end = std::min(run + layout.run_bytes, layout.total_bytes);
    for (std::uint64_t begin = run; begin < end; begin += layout.block_bytes) {
      blocks.push_back({begin, std::min(layout.block_bytes, end - begin)});
    }
  }
  return blocks;
}

bool same_ranges(std::vector<ByteRange> a, std::vector<ByteRange> b) {
  std::ranges::sort(a, {}, &ByteRange::offset);
  std::ranges::sort(b, {}, &ByteRange::offset);
  return a == b;
}

template <class RangesOfTile>
std::vector<ByteRange> of_all_tiles(const TileGeometry& tiles, RangesOfTile ranges_of_tile) {
  std::vector<ByteRange> all;
  for (std::int64_t tile = 0; tile < tiles.tile_count(); ++tile) {
    const std::vector<ByteRange> ranges = ranges_of_tile(tile);
    EXPECT_TRUE(ascends(ranges)) << "tile " << tile;
    all.insert(all.end(), ranges.begin(), ranges.end());
  }
  return all;
}

TEST(TileGeometry, TilesPartitionSourceCodesAndScales) {
  const std::vector<Case> all = cases();
  ASSERT_GT(all.size(), 300U);

  for (const Case& c : all) {
    SCOPED_TRACE(c.name);
    const TileGeometry tiles(c.spec, c.rows, c.cols);
    const auto elements = static_cast<std::uint64_t>(c.rows * c.cols);

    const auto source = of_all_tiles(tiles, [&](std::int64_t tile) { return tiles.source_ranges(tile, 2); });
    const auto codes = of_all_tiles(tiles, [&](std::int64_t tile) { return tiles.code_ranges(tile); });
    const auto scales = of_all_tiles(tiles, [&](std::int64_t tile) { return tiles.scale_ranges(tile, 4); });

    EXPECT_TRUE(partitions(source, elements * 2));
    EXPECT_TRUE(partitions(codes, tiles.code_blocks().total_bytes));
    EXPECT_TRUE(partitions(scales, c.spec.channel_wise ? static_cast<std::uint64_t>(tiles.scale_count()) * 4 : 0));
  }
}

TEST(TileGeometry, ChecksumBlocksAreTheRangesOfTiles) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const TileGeometry tiles(c.spec, c.rows, c.cols);

    const auto codes = of_all_tiles(tiles, [&](std::int64_t tile) { return tiles.code_ranges(tile); });
    const auto scales = of_all_tiles(tiles, [&](std::int64_t tile) { return tiles.scale_ranges(tile, 2); });

    EXPECT_TRUE(same_ranges(codes, blocks_of(tiles.code_blocks())));
    if (c.spec.channel_wise) {
      EXPECT_TRUE(same_ranges(scales, blocks_of(tiles.scale_blocks(2))));
    }
  }
}

TEST(TileGeometry, TilesHoldAboutTheSameNumberOfWeights) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const TileGeometry tiles(c.spec, c.rows, c.cols);
    const std::int64_t unit =
        tiles.by_columns() ? tiles.grouped().rows : tiles.grouped().cols * slabs_of(tiles.packing());

    EXPECT_LE(tiles.tile_extent() * unit, std::max(kTileWeights, unit));
    EXPECT_EQ(tiles.tile_begin(0), 0);
    if (tiles.tile_count() > 1 && tiles.tile_extent() > 64) {
      EXPECT_EQ(tiles.tile_extent() % (tiles.by_columns() ? 64 : 16), 0);
    }
  }
}

TEST(TileGeometry, FourBitTileReadsTwoSlabs) {
  const TileGeometry tiles(make_spec(CodeWidth::k4, 64, 1), 4096, 4096);

  // 262144 grouped rows of 64: 131072 packed rows, 4 Mi weights are 32768 of them.
  EXPECT_EQ(tiles.packed_rows(), 131072);
  EXPECT_EQ(tiles.tile_extent(), 32768);
  ASSERT_EQ(tiles.tile_count(), 4);
  EXPECT_THAT(tiles.source_ranges(1, 2),
              ElementsAre(ByteRange{32768 * 128, 32768 * 128}, ByteRange{(131072 + 32768) * 128, 32768 * 128}));
  EXPECT_THAT(tiles.code_ranges(1), ElementsAre(ByteRange{32768 * 64, 32768 * 64}));
  EXPECT_THAT(tiles.scale_ranges(1, 2),
              ElementsAre(ByteRange{32768 * 2, 32768 * 2}, ByteRange{(131072 + 32768) * 2, 32768 * 2}));
}

TEST(TileGeometry, ThreeBitPaddingHasNoSource) {
  // 21 grouped rows: 3 packed rows of 10 slabs, of which the last three are padding.
  const TileGeometry tiles(make_spec(CodeWidth::k3, 32, 1), 7, 96);

  EXPECT_EQ(tiles.packed_rows(), 3);
  ASSERT_EQ(tiles.tile_count(), 1);
  EXPECT_EQ(tiles.source_ranges(0, 1).size(), 7U);
  EXPECT_EQ(tiles.slab_rows(6, 0, 3).end, 21);
  EXPECT_EQ(tiles.slab_rows(7, 0, 3).begin, tiles.slab_rows(7, 0, 3).end);
  EXPECT_EQ(tiles.code_blocks().total_bytes, 3U * 32 * 4);
}

TEST(TileGeometry, ThreeBitSlabIsCutWhereThePaddingBegins) {
  // 15 grouped rows: 2 packed rows, and slab 7 has one row where the others have two.
  const TileGeometry tiles(make_spec(CodeWidth::k3, 0, 1), 15, 8);

  EXPECT_EQ(tiles.packed_rows(), 2);
  EXPECT_EQ(tiles.slab_rows(7, 0, 2).begin, 14);
  EXPECT_EQ(tiles.slab_rows(7, 0, 2).end, 15);
}

TEST(TileGeometry, AxisZeroTilesAreColumnRanges) {
  const TileGeometry tiles(make_spec(CodeWidth::k4, 64, 0), 4096, 4096);

  EXPECT_TRUE(tiles.by_columns());
  EXPECT_EQ(tiles.tile_extent(), 65536);
  ASSERT_EQ(tiles.tile_count(), 4);
  const std::vector<ByteRange> source = tiles.source_ranges(3, 2);
  ASSERT_EQ(source.size(), 64U);
  EXPECT_EQ(source[1], (ByteRange{(262144 + 3 * 65536) * 2, 65536 * 2}));
  EXPECT_EQ(tiles.code_ranges(3).size(), 32U);
  EXPECT_THAT(tiles.scale_ranges(3, 4), ElementsAre(ByteRange{3 * 65536 * 4, 65536 * 4}));
}

TEST(TileGeometry, PerTensorHasOneScaleThatNoTileWrites) {
  QuantSpec spec = make_spec(CodeWidth::k4, 64, 1);
  spec.channel_wise = false;

  const TileGeometry tiles(spec, 16, 64);

  EXPECT_EQ(tiles.scale_count(), 1);
  EXPECT_THAT(tiles.scale_ranges(0, 2), IsEmpty());
  EXPECT_EQ(tiles.scale_blocks(2), (BlockLayout{2, 2, 2}));
}

TEST(CopyBlocks, CoverTheTensorInOneRun) { EXPECT_EQ(copy_blocks(100), (BlockLayout{100, 100, kCopyBlockBytes})); }

}  // namespace
}  // namespace halfquad
