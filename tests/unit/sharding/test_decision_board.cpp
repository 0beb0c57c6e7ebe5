#include <optional>
#include <vector>

#include <gtest/gtest.h>

#include "sharding/decision_board.h"
#include "tests/support/expect_error.h"
#include "tests/unit/sharding/runner_fixture.h"

namespace halfquad {
namespace {

/// Three tiles with five steps, two tiles per tensor.
const OutputLayout& layout() {
  static const test::RunnerModel model(
      {{"steps", 3072, 4096, DType::kBF16, {.iters = 5}},
       {"range", 1100, 4096, DType::kBF16, {.width = CodeWidth::k4, .channel_wise = false}}},
      std::vector<test::TestTensor>{});
  return model.layout();
}

/// First passes whose mean errors over the whole tensor are a third of `means` when three of them are added.
FirstPasses passes_of(const std::vector<float>& means, std::int64_t tiles = 1) {
  FirstPasses passes;
  passes.tensor = 0;
  passes.tiles = tiles;
  for (const float mean : means) {
    ExactSum sum;
    sum.add(mean * 3072 * 4096);
    passes.step_abs.push_back(sum);
  }
  return passes;
}

FirstPasses range_of(float lo, float hi, std::int64_t tiles) {
  FirstPasses passes;
  passes.tensor = 1;
  passes.tiles = tiles;
  passes.range = {lo, hi, false};
  return passes;
}

TEST(DecisionBoard, DecidesWithTheLastTileAndNotBefore) {
  DecisionBoard board(layout());

  EXPECT_TRUE(board.add(passes_of({5, 4, 3, 2, 1})).empty());
  EXPECT_TRUE(board.add(range_of(-1, 1, 1)).empty());
  EXPECT_TRUE(board.add(passes_of({5, 4, 3, 2, 1})).empty());
  const std::vector<DecidedTensor> decided = board.add(passes_of({5, 4, 3, 2, 1}));

  ASSERT_EQ(decided.size(), 1U);
  EXPECT_EQ(decided[0].decision.steps, 5);
  EXPECT_FALSE(decided[0].decision.stopped_early);
}

TEST(DecisionBoard, StopsWhereTheSumOfAllTilesNoLongerFallsWhateverTheOrder) {
  // Only all three together rise, at the third step.
  const std::vector<FirstPasses> parts = {passes_of({5, 2, 1, 1, 1}), passes_of({4, 3, 5, 1, 1}),
                                          passes_of({6, 5, 4.5F, 1, 1})};
  for (const std::vector<std::size_t>& order : {std::vector<std::size_t>{0, 1, 2}, {2, 1, 0}, {1, 0, 2}}) {
    DecisionBoard board(layout());
    std::vector<DecidedTensor> decided;
    for (const std::size_t part : order) decided = board.add(parts[part]);

    ASSERT_EQ(decided.size(), 1U);
    EXPECT_EQ(decided[0].decision.steps, 3);
    EXPECT_TRUE(decided[0].decision.stopped_early);
  }
}

TEST(DecisionBoard, TakesPartsOfSeveralTiles) {
  DecisionBoard board(layout());

  EXPECT_TRUE(board.add(passes_of({2, 1, 1, 1, 1}, 1)).empty());
  const std::vector<DecidedTensor> decided = board.add(passes_of({2, 1, 1, 1, 1}, 2));

  ASSERT_EQ(decided.size(), 1U);
  EXPECT_EQ(decided[0].decision.steps, 3);
}

TEST(DecisionBoard, AGridSpansTheRangesOfAllTiles) {
  DecisionBoard board(layout());

  EXPECT_TRUE(board.add(range_of(-3, 1, 1)).empty());
  const std::vector<DecidedTensor> decided = board.add(range_of(-1, 12, 1));

  ASSERT_EQ(decided.size(), 1U);
  const FixedGrid want = start_grid({-3, 12, false}, CodeWidth::k4, false);
  EXPECT_EQ(decided[0].decision.grid.scale, want.scale);
  EXPECT_EQ(decided[0].decision.grid.zero, want.zero);
  EXPECT_EQ(decided[0].decision.steps, 0);
}

TEST(DecisionBoard, RefusesMoreTilesThanThereAre) {
  DecisionBoard board(layout());
  static_cast<void>(board.add(range_of(-3, 1, 2)));

  test::expect_error(ErrorCode::kInternal, {"range", "more tiles"},
                     [&] { static_cast<void>(board.add(range_of(-3, 1, 1))); });
}

/// Parts that engines merge, and a layer of its own; one tile each.
const OutputLayout& float_layout() {
  static const test::RunnerModel model = [] {
    QuantSpec spec{
        .group_size = 16, .solver = SolverKind::kRtn, .zeros = ZeroKind::kSymmetric, .grid = FloatGrid::kNvfp4};
    std::vector<test::ModelLayer> layers;
    for (const char* name : {"l.0.k_proj", "l.0.o_proj", "l.0.q_proj", "l.0.v_proj"}) {
      layers.push_back({name, 64, 64, DType::kBF16, spec});
    }
    return test::RunnerModel(layers, *format_named("compressed-tensors"));
  }();
  return model.layout();
}

FirstPasses largest_of(std::size_t tensor, float largest) {
  FirstPasses passes;
  passes.tensor = tensor;
  passes.tiles = 1;
  passes.range = {-largest, largest / 2, false};
  return passes;
}

TEST(DecisionBoard, LayersThatEnginesMergeHaveOneTensorScaleAndAreDecidedTogether) {
  DecisionBoard board(float_layout());

  EXPECT_TRUE(board.add(largest_of(2, 0.5F)).empty());
  EXPECT_TRUE(board.add(largest_of(0, 4)).empty());
  const std::vector<DecidedTensor> alone = board.add(largest_of(1, 8));
  const std::vector<DecidedTensor> merged = board.add(largest_of(3, 1));

  ASSERT_EQ(alone.size(), 1U);
  EXPECT_EQ(alone[0].tensor, 1U);
  EXPECT_EQ(alone[0].decision.tensor_scale, 2688.0F / 8);
  ASSERT_EQ(merged.size(), 3U);
  for (std::size_t i = 0; i < merged.size(); ++i) {
    EXPECT_EQ(merged[i].tensor, (std::vector<std::size_t>{0, 2, 3})[i]);
    EXPECT_EQ(merged[i].decision.tensor_scale, 2688.0F / 4);
  }
}

TEST(DecisionBoard, ATensorScaleThatAnEarlierRunFoundHoldsForTheOthers) {
  std::vector<std::optional<TensorDecision>> settled(4);
  settled[3].emplace().tensor_scale = 7;
  DecisionBoard board(float_layout(), settled);

  const std::vector<DecidedTensor> decided = board.add(largest_of(2, 0.5F));

  ASSERT_EQ(decided.size(), 1U);
  EXPECT_EQ(decided[0].tensor, 2U);
  EXPECT_EQ(decided[0].decision.tensor_scale, 7);
}

TEST(FirstPasses, ReadWhatTheyWrote) {
  FirstPasses passes = passes_of({5, 0.125F, 3}, 2);
  passes.range = {-2, 7, true};
  passes.levels.emplace().add(std::vector<float>{-0.5F, 0.25F, 1, 3}, 4, {});
  WireWriter out;
  passes.write(out);
  const std::vector<std::byte> bytes = out.take();
  WireReader in(bytes);

  const FirstPasses read = FirstPasses::read(in);

  EXPECT_TRUE(in.empty());
  EXPECT_EQ(read.tensor, passes.tensor);
  EXPECT_EQ(read.tiles, 2);
  EXPECT_TRUE(read.step_abs == passes.step_abs);
  EXPECT_EQ(read.range.lo, -2);
  EXPECT_EQ(read.range.hi, 7);
  EXPECT_TRUE(read.range.nonfinite);
  ASSERT_TRUE(read.levels);
  EXPECT_EQ(read.levels->digits(), passes.levels->digits());
}

}  // namespace
}  // namespace halfquad
