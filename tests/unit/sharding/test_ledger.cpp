#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "sharding/ledger.h"
#include "tests/support/expect_error.h"
#include "tests/unit/sharding/runner_fixture.h"

namespace halfquad {
namespace {

/// Two tiles of a layer; a tensor of two blocks and an empty one are copied.
const test::RunnerModel& model() {
  static const test::RunnerModel made({{"layer", 1100, 4096, DType::kBF16, {.width = CodeWidth::k4}}},
                                      {test::random_tensor("kept.blocks", DType::kU8, {(8 << 20) + 1}),
                                       test::random_tensor("kept.empty", DType::kF32, {0, 4})});
  return made;
}

std::uint32_t entry_of(const WorkItem& item) {
  return static_cast<std::uint32_t>(item.kind == WorkItem::Kind::kCopy ? item.tensor
                                                                       : model().layout().quantized()[0].codes);
}

/// One record an item of the plan; blocks with made-up sums. Every block is in one of them.
std::vector<ItemRecord> all_records() {
  const OutputLayout& layout = model().layout();
  std::vector<ItemRecord> records(model().plan().items.size());
  for (std::size_t i = 0; i < records.size(); ++i) {
    records[i].item = i;
    records[i].decision = {4, true, {}};
    records[i].error.add_group(1, 2, 3, static_cast<float>(i));
    records[i].zeroed = 2;
    records[i].seconds = 0.5;
  }
  for (std::uint32_t entry = 0; entry < layout.contents().size(); ++entry) {
    const OutputTensor& content = layout.contents()[entry];
    if (content.kind == OutputTensor::Kind::kConstant) continue;
    const auto owner =
        std::find_if(model().plan().items.begin(), model().plan().items.end(), [&](const WorkItem& item) {
          return content.kind == OutputTensor::Kind::kCopy ? item.kind == WorkItem::Kind::kCopy && item.tensor == entry
                                                           : item.kind == WorkItem::Kind::kTile;
        });
    for (std::uint64_t block = 0; block < content.blocks.block_count(); ++block) {
      records[static_cast<std::size_t>(owner - model().plan().items.begin())].blocks.push_back(
          {entry, block, 1000 * entry + block});
    }
  }
  return records;
}

TEST(Ledger, IsCompleteWithEveryItemInAnyOrderAndGivesTheSameChecksums) {
  std::vector<ItemRecord> records = all_records();
  std::vector<std::string> checksums;
  std::mt19937 random(1);
  for (int turn = 0; turn < 3; ++turn) {
    Ledger ledger(model().plan(), model().layout());
    ledger.add_constants();
    for (const ItemRecord& record : records) {
      EXPECT_FALSE(ledger.complete());
      EXPECT_TRUE(ledger.add(record));
    }
    EXPECT_TRUE(ledger.complete());
    EXPECT_EQ(ledger.source_bytes_done(), model().plan().source_bytes);
    EXPECT_EQ(ledger.tensors_done(), 3U);  // the layer's and the copied ones
    if (turn == 0) checksums = ledger.checksums();
    EXPECT_EQ(ledger.checksums(), checksums);
    std::shuffle(records.begin(), records.end(), random);
  }
}

TEST(Ledger, AddsTheResultsOfATensorsTiles) {
  Ledger ledger(model().plan(), model().layout());
  for (const ItemRecord& record : all_records()) ledger.add(record);

  ASSERT_EQ(ledger.tensors().size(), 1U);
  const TensorResult& result = ledger.tensors()[0];
  EXPECT_EQ(result.steps, 4);
  EXPECT_TRUE(result.stopped_early);
  EXPECT_EQ(result.zeroed, 4);
  EXPECT_EQ(result.seconds, 1.0);
  EXPECT_EQ(result.error.abs.value(), 2.0);
  EXPECT_EQ(result.error.weight2.value(), 6.0);
}

TEST(Ledger, AnItemCountsOnce) {
  Ledger ledger(model().plan(), model().layout());
  const std::vector<ItemRecord> records = all_records();
  const std::size_t all = ledger.left();

  EXPECT_TRUE(ledger.add(records[0]));
  EXPECT_FALSE(ledger.add(records[0]));

  EXPECT_EQ(ledger.left(), all - 1);
  EXPECT_EQ(ledger.done()[0], 1);
  EXPECT_EQ(std::accumulate(ledger.done().begin(), ledger.done().end(), 0), 1);
  EXPECT_EQ(ledger.source_bytes_done(), model().plan().items[0].source_bytes);
  EXPECT_EQ(ledger.tensors()[0].zeroed, 2);
}

TEST(Ledger, ATensorIsDoneWithItsLastItem) {
  Ledger ledger(model().plan(), model().layout());
  const std::uint64_t empty = ledger.tensors_done();
  EXPECT_EQ(empty, 1U);
  std::vector<int> open(model().layout().contents().size());
  for (const WorkItem& item : model().plan().items) ++open[entry_of(item)];
  std::uint64_t done = empty;
  for (const ItemRecord& record : all_records()) {
    ledger.add(record);
    done += --open[entry_of(model().plan().items[record.item])] == 0;
    EXPECT_EQ(ledger.tensors_done(), done);
  }
}

TEST(Ledger, RefusesRecordsOfAnotherPlanAndKeepsNothingOfThem) {
  Ledger ledger(model().plan(), model().layout());
  const std::size_t all = ledger.left();
  ItemRecord record = all_records()[0];
  record.item = all;
  test::expect_error(ErrorCode::kBadInput, {std::to_string(all)}, [&] { ledger.add(record); });
  record = all_records()[0];
  record.blocks.push_back({0, 1'000'000, 0});
  test::expect_error(ErrorCode::kBadInput, {"item 0", "block"}, [&] { ledger.add(record); });
  record.blocks.back() = {1'000, 0, 0};
  test::expect_error(ErrorCode::kBadInput, {"item 0", "block"}, [&] { ledger.add(record); });

  EXPECT_EQ(ledger.left(), all);
}

TEST(Ledger, HasNoChecksumsWhileABlockIsMissing) {
  Ledger ledger(model().plan(), model().layout());
  ledger.add_constants();
  ledger.add(all_records()[0]);

  test::expect_error(ErrorCode::kInternal, {}, [&] { static_cast<void>(ledger.checksums()); });
}

}  // namespace
}  // namespace halfquad
