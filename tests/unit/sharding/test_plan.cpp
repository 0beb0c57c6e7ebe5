#include <cstdint>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "header_checkpoint.h"
#include "io/file_system.h"
#include "sharding/plan.h"

namespace halfquad {
namespace {

OutputLayout layout_of(const Checkpoint& checkpoint, const std::string& recipe = R"({"group_size": 32})") {
  return OutputLayout(checkpoint, decide(checkpoint, parse_recipe(recipe, "test")), DType::kF16);
}

/// Source tensor an item works on.
std::size_t source_of(const WorkItem& item, const OutputLayout& layout) {
  return item.kind == WorkItem::Kind::kTile ? layout.quantized()[item.tensor].source
                                            : layout.contents()[item.tensor].source;
}

/// Large enough for several tiles and several copied blocks.
std::vector<FakeTensor> large_tensors() {
  return {{"model.embed_tokens.weight", {4097, 2048}},
          {"model.layers.0.up_proj.weight", {4096, 4096}},
          {"model.layers.0.norm.weight", {4096}},
          {"model.layers.0.empty", {0}},
          {"model.layers.0.down_proj.weight", {64, 64}}};
}

TEST(MakePlan, WalksTheSourceFileAndCoversEveryByteOnce) {
  const HeaderCheckpoint checkpoint(large_tensors());
  const OutputLayout layout = layout_of(*checkpoint);

  const Plan plan = make_plan(*checkpoint, layout);

  std::vector<std::uint64_t> read(checkpoint->tensors().size());
  std::uint64_t written = 0;
  for (std::size_t i = 0; i < plan.items.size(); ++i) {
    const std::size_t source = source_of(plan.items[i], layout);
    read[source] += plan.items[i].source_bytes;
    written += plan.items[i].output_bytes;
    if (i == 0) continue;
    const std::size_t before = source_of(plan.items[i - 1], layout);
    EXPECT_LE(checkpoint->tensors()[before].offset, checkpoint->tensors()[source].offset);
    EXPECT_EQ(plan.items[i].index, source == before ? plan.items[i - 1].index + 1 : 0);
  }
  for (std::size_t i = 0; i < read.size(); ++i) EXPECT_EQ(read[i], checkpoint->tensors()[i].bytes);
  std::uint64_t constants = 0;
  for (const OutputTensor& content : layout.contents()) constants += content.constant.size();
  EXPECT_EQ(written + constants, layout.data_bytes());
}

TEST(MakePlan, CountsTilesBlocksAndWeights) {
  const HeaderCheckpoint checkpoint(large_tensors());
  const OutputLayout layout = layout_of(*checkpoint);

  const Plan plan = make_plan(*checkpoint, layout);

  // Embedding: 16.004 MiB in three blocks; up_proj: four tiles; the norm; nothing for the empty one; down_proj.
  ASSERT_EQ(plan.items.size(), 3U + 4 + 1 + 1);
  EXPECT_EQ(plan.items[2].output_bytes, 2048U * 2);
  EXPECT_EQ(plan.items[3].kind, WorkItem::Kind::kTile);
  EXPECT_EQ(plan.weights, 4096U * 4096 + 64 * 64);
  EXPECT_EQ(plan.source_bytes, checkpoint->tensor_bytes());
  EXPECT_EQ(plan.read_bytes, plan.source_bytes);
  EXPECT_EQ(plan.output_bytes, layout.data_bytes());
  // The up_proj's tiles: 8 MiB of source in two slabs with room to align, and 2.25 MiB of output, in whole MiB.
  EXPECT_EQ(plan.largest_item_bytes, 11U << 20);
  EXPECT_EQ(plan.largest_tensor_bytes, 44U << 20);
}

TEST(Predict, TakesTheSlowestOfTheOverlappedStages) {
  Plan plan;
  plan.read_bytes = 1000;
  plan.output_bytes = 300;
  plan.weights = 500;

  const Prediction solving =
      predict(plan, {.read_bytes_per_s = 100, .write_bytes_per_s = 100, .weights_per_s_per_core = 10}, 4);
  const Prediction reading =
      predict(plan, {.read_bytes_per_s = 100, .write_bytes_per_s = 100, .weights_per_s_per_core = 10}, 8);
  const Prediction writing = predict(plan, {.write_bytes_per_s = 100}, 1);

  EXPECT_EQ(solving.bound, "solving");
  EXPECT_DOUBLE_EQ(solving.seconds, 12.5);
  EXPECT_DOUBLE_EQ(solving.write_seconds, 3);
  EXPECT_EQ(reading.bound, "reading");
  EXPECT_DOUBLE_EQ(reading.seconds, 10);
  EXPECT_EQ(writing.bound, "writing");
  EXPECT_DOUBLE_EQ(writing.read_seconds, 0);
}

TEST(PlanMemory, HoldsTwoItemsAtLeastAndAWholeTensorAtBest) {
  Plan plan;
  plan.largest_item_bytes = 12 << 20;
  plan.largest_tensor_bytes = 100 << 20;

  EXPECT_EQ(minimum_memory(plan), 24ULL << 20);
  EXPECT_EQ(comfortable_memory(plan, 8), ((2 * 8 + 8) * 12 + 100ULL) << 20);
  plan.largest_tensor_bytes += 1;
  EXPECT_EQ(comfortable_memory(plan, 8), ((2 * 8 + 8) * 12 + 101ULL) << 20);
}

}  // namespace
}  // namespace halfquad
