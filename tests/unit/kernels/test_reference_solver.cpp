#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/solver.h"
#include "tests/support/golden_hqq.h"
#include "tests/support/solve_tensor.h"

namespace halfquad {
namespace {

using test::SolvedTensor;
using test::SourceTensor;

SourceTensor tensor_of(const std::vector<float>& weights, std::int64_t rows) {
  return {.data = reinterpret_cast<const std::byte*>(weights.data()),
          .dtype = DType::kF32,
          .rows = rows,
          .cols = static_cast<std::int64_t>(weights.size()) / rows};
}

TEST(ReferenceSolver, EqualsLibraryAndCanonicalGoldens) {
  const auto goldens = test::read_hqq_goldens();
  const auto solver = make_reference_solver();

  test::expect_hqq_goldens(*solver, goldens);
}

TEST(ReferenceSolver, GivesTheSameResultsForAnyCut) {
  const auto goldens = test::read_hqq_goldens();
  const auto solver = make_reference_solver();

  test::expect_hqq_goldens(*solver, goldens, 3);
}

TEST(ReferenceSolver, SolvesAGroupThatCanBeCheckedByHand) {
  // lo = -1, hi = 2, S = 1/3 * 3 = 1, z = 1: codes w + 1 without an error.
  const std::vector<float> weights = {-1, 0, 1, 2};
  QuantSpec spec;
  spec.width = CodeWidth::k2;
  spec.group_size = 4;
  const auto solver = make_reference_solver();
  std::vector<float> four_rows;
  for (int row = 0; row < 4; ++row) four_rows.insert(four_rows.end(), weights.begin(), weights.end());

  const SolvedTensor solved = test::solve_tensor(*solver, tensor_of(four_rows, 4), spec);

  EXPECT_EQ(std::vector<std::uint8_t>(solved.codes.begin(), solved.codes.begin() + 4),
            (std::vector<std::uint8_t>{0, 1, 2, 3}));
  EXPECT_EQ(solved.scale, std::vector<float>(4, 1.0F));
  EXPECT_EQ(solved.zero, std::vector<float>(4, 1.0F));
  EXPECT_EQ(solved.steps, 2);
  EXPECT_TRUE(solved.stopped_early);
  EXPECT_EQ(solved.final_error.abs.value(), 0);
  EXPECT_EQ(solved.final_error.weight2.value(), 4 * 6.0);
}

TEST(ReferenceSolver, ReportsErrorsOfTheStoredScaleAndZero) {
  // S = 1/0.3 * 3: scale 0.1 is no fp16 number, so the errors are those of the rounded one.
  const std::vector<float> weights = {0, 0.1F, 0.2F, 0.3F};
  QuantSpec spec;
  spec.width = CodeWidth::k3;
  spec.group_size = 0;
  spec.solver = SolverKind::kRtn;
  const auto solver = make_reference_solver();

  const SolvedTensor as_f32 = test::solve_tensor(*solver, tensor_of(weights, 1), spec, {.stored = DType::kF32});
  const SolvedTensor as_bf16 = test::solve_tensor(*solver, tensor_of(weights, 1), spec, {.stored = DType::kBF16});

  EXPECT_EQ(as_f32.scale, as_bf16.scale);
  EXPECT_EQ(as_f32.codes, as_bf16.codes);
  EXPECT_GT(as_bf16.final_error.abs.value(), as_f32.final_error.abs.value());
}

TEST(ReferenceSolver, MeasuresWhatSolveReports) {
  std::vector<float> weights(256);
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>((i * 37) % 101) / 50 - 1;
  QuantSpec spec;
  spec.group_size = 32;
  const auto solver = make_reference_solver();
  const SolvedTensor solved = test::solve_tensor(*solver, tensor_of(weights, 4), spec);
  const GroupBlock block{
      .data = reinterpret_cast<const std::byte*>(weights.data()), .groups = 8, .group_elems = 32, .group_stride = 32};

  ErrorSums sums;
  solver->measure(block, {solved.codes.data(), solved.scale.data(), solved.zero.data()}, sums);

  EXPECT_EQ(sums.abs, solved.final_error.abs);
  EXPECT_EQ(sums.square, solved.final_error.square);
  EXPECT_EQ(sums.weight2, solved.final_error.weight2);
  EXPECT_EQ(sums.max_abs, solved.final_error.max_abs);
  EXPECT_GT(sums.max_abs, 0);
}

TEST(ReferenceSolver, FlagsNonFiniteWeightsAndRanges) {
  QuantSpec spec;
  spec.group_size = 4;
  const auto solver = make_reference_solver();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kMax = std::numeric_limits<float>::max();

  const auto flagged = [&](std::vector<float> group) {
    group.insert(group.end(), {0, 1, 2, 3});
    return test::solve_tensor(*solver, tensor_of(group, 2), spec).nonfinite;
  };

  EXPECT_TRUE(flagged({0, kNan, 1, 2}));
  EXPECT_TRUE(flagged({0, 1, 2, kInf}));
  EXPECT_TRUE(flagged({0, -kInf, 2, 3}));
  EXPECT_TRUE(flagged({-kMax, 0, 0, kMax}));
  EXPECT_FALSE(flagged({0, 1e30F, -1e30F, 3}));
}

TEST(ReferenceSolver, TreatsAnF64BeyondF32AsInfinite) {
  const std::array<double, 2> weights = {1.0, 1e39};
  const auto solver = make_reference_solver();

  const WeightRange range = solver->range(reinterpret_cast<const std::byte*>(weights.data()), DType::kF64, 2);

  EXPECT_TRUE(range.nonfinite);
}

TEST(WeightRange, KeepsTheSignOfANegativeZeroMinimumInAnyOrder) {
  const WeightRange negative{.lo = -0.0F, .hi = -0.0F};
  const WeightRange positive{.lo = 0.0F, .hi = 1.0F};
  WeightRange first = negative;
  WeightRange second = positive;

  first.add(positive);
  second.add(negative);

  EXPECT_TRUE(std::signbit(first.lo));
  EXPECT_TRUE(std::signbit(second.lo));
  EXPECT_EQ(first.hi, 1.0F);
  EXPECT_EQ(second.hi, 1.0F);
}

TEST(StartGrid, ClampsTheScaleOfNarrowRanges) {
  const FixedGrid constant = start_grid({.lo = 3, .hi = 3}, CodeWidth::k4, false);
  const FixedGrid narrow = start_grid({.lo = 0, .hi = 2e-4F}, CodeWidth::k4, false);

  EXPECT_EQ(constant.inverse_scale, 1.0F);
  EXPECT_EQ(constant.zero, -3.0F);
  EXPECT_EQ(narrow.inverse_scale, 2e4F);
}

TEST(StartGrid, RoundsTheZeroOnlyOnRequest) {
  const WeightRange range{.lo = -0.3F, .hi = 0.7F};

  EXPECT_EQ(start_grid(range, CodeWidth::k2, true).zero, 1.0F);
  EXPECT_NE(start_grid(range, CodeWidth::k2, false).zero, 1.0F);
}

TEST(ErrorSums, CountOverflowedGroupsAsTheLargestFloat) {
  constexpr float kMax = std::numeric_limits<float>::max();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  ErrorSums sums;
  sums.add_group(1, 2, 3, 0.5F);
  ErrorSums broken;
  broken.add_group(kNan, std::numeric_limits<float>::infinity(), 1, kNan);

  sums.add(broken);

  EXPECT_EQ(sums.max_abs, kMax);
  EXPECT_EQ(sums.abs.value(), double{kMax} + 1);
  EXPECT_EQ(sums.weight2.value(), 4);
}

}  // namespace
}  // namespace halfquad
