#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io/block_digest.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

using test::expect_error;

std::vector<std::byte> some_bytes(std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i * 37 + i / 251);
  return bytes;
}

/// The digest when the blocks are added one by one in the given order.
std::string digest_in_order(const BlockLayout& layout, std::vector<std::uint64_t> offsets,
                            const std::vector<std::byte>& bytes) {
  BlockDigest digest(layout);
  for (const std::uint64_t offset : offsets) {
    digest.add(offset, std::span(bytes).subspan(offset, layout.block_length(offset)));
  }
  return digest.hex();
}

std::vector<std::uint64_t> block_offsets(const BlockLayout& layout) {
  std::vector<std::uint64_t> offsets;
  for (std::uint64_t at = 0; at < layout.total_bytes; at += layout.block_length(at)) offsets.push_back(at);
  return offsets;
}

TEST(BlockLayout, CutsRunsIntoBlocksWithShortOnesAtTheEnds) {
  const BlockLayout layout{.total_bytes = 250, .run_bytes = 100, .block_bytes = 30};

  EXPECT_EQ(layout.block_count(), 4U + 4U + 2U);
  EXPECT_EQ(block_offsets(layout), (std::vector<std::uint64_t>{0, 30, 60, 90, 100, 130, 160, 190, 200, 230}));
  EXPECT_EQ(layout.block_at(190), 7U);
  EXPECT_EQ(layout.block_length(190), 10U);
  EXPECT_EQ(layout.block_length(230), 20U);
}

TEST(BlockLayout, KnowsWhereEachBlockStarts) {
  const BlockLayout layout{.total_bytes = 250, .run_bytes = 100, .block_bytes = 30};

  std::vector<std::uint64_t> offsets;
  for (std::uint64_t block = 0; block < layout.block_count(); ++block) offsets.push_back(layout.offset_of(block));
  EXPECT_EQ(offsets, block_offsets(layout));
}

TEST(BlockLayout, RefusesAnOffsetInsideABlock) {
  const BlockLayout layout{.total_bytes = 250, .run_bytes = 100, .block_bytes = 30};

  expect_error(ErrorCode::kInternal, {"offset 120"}, [&] { static_cast<void>(layout.block_at(120)); });
  expect_error(ErrorCode::kInternal, {"offset 250"}, [&] { static_cast<void>(layout.block_at(250)); });
}

TEST(BlockDigest, IsTheSameForAnyOrderOfTiles) {
  const BlockLayout layout{.total_bytes = 1000, .run_bytes = 300, .block_bytes = 70};
  const std::vector<std::byte> bytes = some_bytes(1000);
  std::vector<std::uint64_t> offsets = block_offsets(layout);

  BlockDigest whole(layout);
  whole.add(0, bytes);
  const std::string forward = digest_in_order(layout, offsets, bytes);
  std::reverse(offsets.begin(), offsets.end());

  EXPECT_EQ(whole.hex(), forward);
  EXPECT_EQ(digest_in_order(layout, offsets, bytes), forward);
  EXPECT_EQ(forward.size(), 16U);
}

TEST(BlockDigest, TakesBlocksThatWereHashedElsewhere) {
  const BlockLayout layout{.total_bytes = 250, .run_bytes = 100, .block_bytes = 30};
  const std::vector<std::byte> bytes = some_bytes(250);
  BlockDigest whole(layout);
  whole.add(0, bytes);
  BlockDigest pieced(layout);

  pieced.add(0, std::span(bytes).first(90));
  for (const std::uint64_t at : block_offsets(layout)) {
    if (at < 90) continue;
    pieced.set(layout.block_at(at), BlockDigest::hash(std::span(bytes).subspan(at, layout.block_length(at))));
  }

  EXPECT_EQ(pieced.hex(), whole.hex());
  pieced.set(3, 0);
  EXPECT_NE(pieced.hex(), whole.hex());
  expect_error(ErrorCode::kInternal, {"no checksum block 10 among 10"}, [&] { pieced.set(10, 0); });
}

TEST(BlockDigest, ChangesWithAnyByteAndWithSwappedBlocks) {
  const BlockLayout layout{.total_bytes = 200, .run_bytes = 200, .block_bytes = 100};
  std::vector<std::byte> bytes = some_bytes(200);
  const std::string before = digest_in_order(layout, {0, 100}, bytes);

  std::rotate(bytes.begin(), bytes.begin() + 100, bytes.end());
  EXPECT_NE(digest_in_order(layout, {0, 100}, bytes), before);
  std::rotate(bytes.begin(), bytes.begin() + 100, bytes.end());
  bytes[199] ^= std::byte{1};
  EXPECT_NE(digest_in_order(layout, {0, 100}, bytes), before);
}

// Two runs of 10 in blocks of 4: a block is columns 0-3, 4-7 or 8-9 of both.
TEST(BlockLayout, ABlockAcrossRunsIsTheSamePartOfEach) {
  const BlockLayout layout{.total_bytes = 20, .run_bytes = 10, .block_bytes = 4, .across_runs = true};

  EXPECT_EQ(layout.block_count(), 3U);
  EXPECT_EQ(layout.longest_block(), 8U);
  EXPECT_EQ(layout.ranges_of(1), (std::vector<ByteRange>{{4, 4}, {14, 4}}));
  EXPECT_EQ(layout.ranges_of(2), (std::vector<ByteRange>{{8, 2}, {18, 2}}));
}

TEST(BlockLayout, ABlockInARunIsOneRange) {
  const BlockLayout layout{.total_bytes = 20, .run_bytes = 10, .block_bytes = 4};

  EXPECT_EQ(layout.longest_block(), 4U);
  EXPECT_EQ(layout.ranges_of(4), (std::vector<ByteRange>{{14, 4}}));
}

TEST(BlockDigest, OfAnEmptyTensorIsTheHashOfNothing) {
  const BlockDigest digest(BlockLayout{});

  EXPECT_EQ(digest.hex(), "2d06800538d394c2");  // XXH3-64 of no bytes, as its specification gives it
}

TEST(BlockDigest, RefusesToEndWhileABlockIsMissing) {
  BlockDigest digest({.total_bytes = 20, .run_bytes = 20, .block_bytes = 10});
  const std::vector<std::byte> bytes = some_bytes(10);

  digest.add(10, bytes);

  expect_error(ErrorCode::kInternal, {"block 0 was never written"}, [&] { static_cast<void>(digest.hex()); });
}

TEST(BlockDigest, RefusesDataThatEndsInsideABlock) {
  BlockDigest digest({.total_bytes = 20, .run_bytes = 20, .block_bytes = 10});
  const std::vector<std::byte> bytes = some_bytes(15);

  expect_error(ErrorCode::kInternal, {"5 bytes at offset 10 end inside"}, [&] { digest.add(0, bytes); });
}

}  // namespace
}  // namespace halfquad
