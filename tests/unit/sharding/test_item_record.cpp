#include <cmath>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "sharding/item_record.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

ItemRecord some_record() {
  ItemRecord record;
  record.item = 0x1'2345'6789;
  record.decision = {7, true, {.inverse_scale = 3.5F, .scale = 1 / 3.5F, .zero = -0.0F}};
  record.decision.importance = std::make_shared<const std::vector<float>>(std::vector<float>{0.25F, 100});
  record.decision.tensor_scale = 1.5F;
  record.decision.levels = Levels{-1, -0.25F, 0, 0.125F, 1};
  record.error.add_group(1.25F, 0.5F, 2.75F, 0.125F);
  record.zeroed = 12;
  record.seconds = 0.625;
  record.blocks = {{3, 1'000'000'007, 0xFEDC'BA98'7654'3210}, {4, 0, 0}};
  return record;
}

std::vector<std::byte> bytes_of_record(const ItemRecord& record) {
  WireWriter out;
  record.write(out);
  return out.take();
}

TEST(ItemRecord, ReadsWhatItWrote) {
  const std::vector<std::byte> bytes = bytes_of_record(some_record());
  WireReader in(bytes);

  const ItemRecord read = ItemRecord::read(in);

  const ItemRecord want = some_record();
  EXPECT_TRUE(in.empty());
  EXPECT_EQ(read.item, want.item);
  EXPECT_EQ(read.decision.steps, 7);
  EXPECT_TRUE(read.decision.stopped_early);
  EXPECT_EQ(read.decision.grid.inverse_scale, want.decision.grid.inverse_scale);
  EXPECT_EQ(read.decision.grid.scale, want.decision.grid.scale);
  EXPECT_TRUE(read.decision.grid.zero == 0 && std::signbit(read.decision.grid.zero));
  EXPECT_EQ(read.decision.tensor_scale, 1.5F);
  EXPECT_EQ(read.decision.levels, want.decision.levels);
  ASSERT_TRUE(read.decision.importance);
  EXPECT_EQ(*read.decision.importance, *want.decision.importance);
  EXPECT_TRUE(read.error.abs == want.error.abs && read.error.square == want.error.square);
  EXPECT_TRUE(read.error.weight2 == want.error.weight2);
  EXPECT_EQ(read.error.max_abs, want.error.max_abs);
  EXPECT_EQ(read.zeroed, want.zeroed);
  EXPECT_EQ(read.seconds, want.seconds);
  ASSERT_EQ(read.blocks.size(), 2U);
  EXPECT_EQ(read.blocks[0].entry, 3U);
  EXPECT_EQ(read.blocks[0].block, 1'000'000'007U);
  EXPECT_EQ(read.blocks[0].hash, 0xFEDC'BA98'7654'3210U);
  EXPECT_EQ(read.blocks[1].entry, 4U);
}

TEST(ItemRecord, RefusesBytesThatAreCutAnywhere) {
  const std::vector<std::byte> bytes = bytes_of_record(some_record());
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    WireReader in(std::span<const std::byte>(bytes.data(), length));
    test::expect_error(ErrorCode::kBadInput, {"cut off"}, [&] { static_cast<void>(ItemRecord::read(in)); });
  }
}

TEST(ItemRecord, RefusesACountOfBlocksThatIsNotThereWithoutMakingRoomForIt) {
  std::vector<std::byte> bytes = bytes_of_record(some_record());
  constexpr std::size_t kBlocksBytes = 2 * 20;
  bytes.at(bytes.size() - kBlocksBytes - 1) = std::byte{0x7F};  // the count's highest byte
  WireReader in(bytes);

  test::expect_error(ErrorCode::kBadInput, {"cut off"}, [&] { static_cast<void>(ItemRecord::read(in)); });
}

}  // namespace
}  // namespace halfquad
