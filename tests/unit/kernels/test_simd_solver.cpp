#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/solver.h"
#include "runtime/error.h"
#include "tests/support/golden_hqq.h"
#include "tests/unit/kernels/random_groups.h"
#include "tests/unit/kernels/solver_outcome.h"

namespace halfquad {
namespace {

using test::BlockShape;
using test::expect_same;
using test::Outcome;
using test::RandomBlock;
using test::room_for;
using test::same_bits;
using test::solve;
using test::Weights;

constexpr CodeWidth kWidths[] = {CodeWidth::k1, CodeWidth::k1_58, CodeWidth::k2, CodeWidth::k3,
                                 CodeWidth::k4, CodeWidth::k5,    CodeWidth::k6, CodeWidth::k8};
constexpr DType kSources[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF64};
constexpr DType kStored[] = {DType::kF32, DType::kF16, DType::kBF16};
constexpr std::int64_t kGroupSizes[] = {1, 2, 3, 7, 8, 9, 16, 31, 32, 33, 37, 64, 96, 128, 512, 513, 1056, 4608};
constexpr std::int64_t kGroupCounts[] = {1, 2, 3, 5, 15, 16, 17, 33};

template <class T, std::size_t kCount>
const T& pick(std::mt19937_64& random, const T (&from)[kCount]) {
  return from[random() % kCount];
}

bool flip(std::mt19937_64& random) { return random() % 2 == 0; }

double random_scale(std::mt19937_64& random) {
  return std::pow(10.0, std::uniform_real_distribution<double>(-3.0, 1.5)(random));
}

Weights random_kind(std::mt19937_64& random) {
  // The kinds that a solver meets in models come up more often than the corners.
  constexpr int kCommon = 3;
  const auto all = static_cast<std::uint64_t>(test::kWeightsKinds);
  return static_cast<Weights>(flip(random) ? random() % kCommon : random() % all);
}

SolveRequest random_request(std::mt19937_64& random) {
  constexpr double kNorms[] = {0.7, 0.7, 0.7, 0.5, 0.15, 1.0};
  SolveRequest request;
  request.spec.width = pick(random, kWidths);
  request.spec.round_zero = random() % 4 == 0;
  request.spec.solver = random() % 8 == 0 ? SolverKind::kRtn : SolverKind::kHqq;
  request.spec.lp_norm = pick(random, kNorms);
  request.spec.beta = random() % 4 == 0 ? 1.0 : 10.0;
  request.spec.kappa = random() % 4 == 0 ? 1.3 : 1.01;
  request.iters = 1 + static_cast<int>(random() % 20);
  request.spec.iters = request.iters + static_cast<int>(random() % 2);
  request.stored = pick(random, kStored);
  request.record = flip(random) ? RecordErrors::kYes : RecordErrors::kNo;
  request.exit = flip(random) ? FixedPointExit::kOn : FixedPointExit::kOff;
  return request;
}

std::string describe(const BlockShape& shape, DType dtype, Weights kind, double scale, const SolveRequest& r) {
  return std::to_string(shape.groups) + " groups of " + std::to_string(shape.group_elems) + ", axis " +
         std::to_string(shape.axis) + ", padding " + std::to_string(shape.padding) + ", " +
         std::string(name_of(dtype)) + " " + test::name_of(kind) + " of scale " + std::to_string(scale) + ", " +
         std::string(name_of(r.spec.width)) + " bits, " + std::string(name_of(r.spec.solver)) + ", p " +
         std::to_string(r.spec.lp_norm) + ", " + std::to_string(r.iters) + " steps, record " +
         (r.record == RecordErrors::kYes ? "yes" : "no") + ", exit " + (r.exit == FixedPointExit::kOn ? "on" : "off") +
         ", stored " + std::string(name_of(r.stored));
}

/// Every target that this CPU runs, next to the reference.
class SimdSolver : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Solver> simd_ = make_simd_solver(GetParam());
  std::unique_ptr<Solver> reference_ = make_reference_solver();

  void expect_equal_solves(std::mt19937_64& random, const BlockShape& shape) {
    const DType dtype = pick(random, kSources);
    const Weights kind = random_kind(random);
    const double scale = random_scale(random);
    const SolveRequest request = random_request(random);
    SCOPED_TRACE(describe(shape, dtype, kind, scale, request));
    RandomBlock block(random, shape, dtype, kind, scale);
    const auto target_padding = static_cast<std::int64_t>(random() % 3);

    const Outcome want = solve(*reference_, block, target_padding, request);
    const Outcome got = solve(*simd_, block, target_padding, request);

    expect_same(got, want);
  }
};

TEST_P(SimdSolver, EqualsLibraryAndCanonicalGoldens) {
  const auto goldens = test::read_hqq_goldens();

  test::expect_hqq_goldens(*simd_, goldens);
}

TEST_P(SimdSolver, GivesTheSameResultsForAnyCut) {
  const auto goldens = test::read_hqq_goldens();

  test::expect_hqq_goldens(*simd_, goldens, 5);
}

TEST_P(SimdSolver, SolvesEveryShapeAsTheReferenceDoes) {
  constexpr int kDraws = 2;
  std::mt19937_64 random(20260301);
  for (const std::int64_t group_elems : kGroupSizes) {
    for (const std::int64_t groups : kGroupCounts) {
      for (const int axis : {0, 1}) {
        for (int draw = 0; draw < kDraws && !HasFailure(); ++draw) {
          const auto padding = static_cast<std::int64_t>(draw == 0 ? 0 : random() % 5);
          expect_equal_solves(random, {.groups = groups, .group_elems = group_elems, .axis = axis, .padding = padding});
        }
      }
    }
  }
}

TEST_P(SimdSolver, SolvesCommonGroupsOfEveryWidthAsTheReferenceDoes) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 600 && !HasFailure(); ++i) {
    constexpr std::int64_t kCommon[] = {16, 32, 64, 128};
    expect_equal_solves(random, {.groups = 1 + static_cast<std::int64_t>(random() % 70),
                                 .group_elems = pick(random, kCommon),
                                 .axis = static_cast<int>(random() % 2)});
  }
}

// Far from zero the steps of fp32 near z are coarse: what holds for codes around one z need not hold half a step away.
TEST_P(SimdSolver, SolvesGroupsFarFromZeroAsTheReferenceDoes) {
  std::mt19937_64 random(11);
  std::normal_distribution<double> gauss;
  constexpr std::int64_t kElems = 32;
  for (int i = 0; i < 1500 && !HasFailure(); ++i) {
    RandomBlock block(random, {.groups = 1, .group_elems = kElems}, DType::kF32, Weights::kConstant, 1.0);
    const double distance = std::ldexp(flip(random) ? 1.0 : -1.0, 8 + static_cast<int>(random() % 12));
    for (std::int64_t k = 0; k < kElems; ++k) block.set(0, k, 0.05 * (distance + gauss(random)));
    SolveRequest request;
    request.spec.width = pick(random, kWidths);
    request.spec.round_zero = flip(random);
    SCOPED_TRACE(std::to_string(distance) + " from zero, " + std::string(name_of(request.spec.width)) + " bits");

    const Outcome want = solve(*reference_, block, 0, request);
    const Outcome got = solve(*simd_, block, 0, request);

    expect_same(got, want);
  }
}

TEST_P(SimdSolver, AddsToTheStatsItIsGiven) {
  std::mt19937_64 random(11);
  const RandomBlock block(random, {.groups = 19, .group_elems = 64}, DType::kF32, Weights::kGauss, 0.02);
  SolveRequest request;
  SolveTarget target;
  Outcome out = room_for(block, 0, target);
  out.stats.step_abs.resize(20);
  const Outcome once = solve(*reference_, block, 0, request);

  simd_->solve(block.block(), request, target, out.stats);
  simd_->solve(block.block(), request, target, out.stats);

  ExactSum twice = once.stats.step_abs[3];
  twice.add(once.stats.step_abs[3]);
  EXPECT_EQ(out.stats.step_abs[3].digits(), twice.digits());
  ErrorSums error = once.stats.final_error;
  error.add(once.stats.final_error);
  expect_same(out.stats.final_error, error);
}

TEST_P(SimdSolver, SaysAfterHowManyStepsTheResultIsFinal) {
  std::mt19937_64 random(31);
  int settled_early = 0;
  for (int i = 0; i < 300 && !HasFailure(); ++i) {
    SolveRequest request = random_request(random);
    request.spec.solver = SolverKind::kHqq;
    request.iters = request.spec.iters = 20;
    const BlockShape shape{.groups = 1 + static_cast<std::int64_t>(random() % 20), .group_elems = 32};
    const RandomBlock block(random, shape, DType::kF32, random_kind(random), random_scale(random));
    const Outcome all = solve(*simd_, block, 0, request);
    settled_early += all.stats.settled < request.iters ? 1 : 0;

    request.iters = std::max(1, all.stats.settled);
    const Outcome fewer = solve(*reference_, block, 0, request);

    EXPECT_TRUE(same_bits(fewer.zero, all.zero)) << "settled after " << all.stats.settled;
    EXPECT_EQ(fewer.codes, all.codes);
  }
  EXPECT_GT(settled_early, 20);
}

TEST_P(SimdSolver, FlagsNonFiniteWeightsWhereverTheyAre) {
  constexpr double kBad[] = {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
                             std::numeric_limits<double>::quiet_NaN()};
  std::mt19937_64 random(13);
  for (int i = 0; i < 300; ++i) {
    const BlockShape shape{.groups = 1 + static_cast<std::int64_t>(random() % 20),
                           .group_elems = pick(random, kGroupSizes) % 100 + 1,
                           .axis = static_cast<int>(random() % 2)};
    RandomBlock block(random, shape, pick(random, kSources), Weights::kGauss, 1.0);
    const auto g = static_cast<std::int64_t>(random() % 1000) % shape.groups;
    const auto k = static_cast<std::int64_t>(random() % 1000) % shape.group_elems;
    block.set(g, k, pick(random, kBad));

    EXPECT_TRUE(solve(*simd_, block, 0, random_request(random)).stats.nonfinite) << "group " << g << ", element " << k;
  }
}

TEST_P(SimdSolver, FlagsARangeBeyondF32) {
  std::mt19937_64 random(17);
  RandomBlock block(random, {.groups = 5, .group_elems = 64}, DType::kF32, Weights::kGauss, 1.0);
  block.set(3, 7, 3e38);
  EXPECT_FALSE(solve(*simd_, block, 0, {}).stats.nonfinite);

  block.set(3, 50, -3e38);

  EXPECT_TRUE(solve(*simd_, block, 0, {}).stats.nonfinite);
}

TEST_P(SimdSolver, EncodesAsTheReferenceDoes) {
  std::mt19937_64 random(19);
  for (int i = 0; i < 300 && !HasFailure(); ++i) {
    const BlockShape shape{
        .groups = pick(random, kGroupCounts), .group_elems = pick(random, kGroupSizes), .axis = i % 4 == 0 ? 0 : 1};
    const SolveRequest request = random_request(random);
    const DType dtype = pick(random, kSources);
    const Weights kind = random_kind(random);
    const RandomBlock block(random, shape, dtype, kind, 0.5);
    SCOPED_TRACE(describe(shape, dtype, kind, 0.5, request));
    const FixedGrid grid = start_grid({.lo = -0.9F, .hi = 1.1F}, request.spec.width, request.spec.round_zero);
    SolveTarget target;

    Outcome want = room_for(block, 1, target);
    reference_->encode(block.block(), request.spec.width, grid, request.stored, target, want.stats);
    Outcome got = room_for(block, 1, target);
    simd_->encode(block.block(), request.spec.width, grid, request.stored, target, got.stats);

    expect_same(got, want);
  }
}

TEST_P(SimdSolver, MeasuresAsTheReferenceDoes) {
  std::mt19937_64 random(23);
  for (int i = 0; i < 300 && !HasFailure(); ++i) {
    const BlockShape shape{.groups = pick(random, kGroupCounts),
                           .group_elems = pick(random, kGroupSizes),
                           .axis = static_cast<int>(random() % 2),
                           .padding = static_cast<std::int64_t>(random() % 3)};
    const DType dtype = pick(random, kSources);
    const Weights kind = random_kind(random);
    const RandomBlock block(random, shape, dtype, kind, 0.5);
    SCOPED_TRACE(describe(shape, dtype, kind, 0.5, {}));
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(block.span_elems()));
    for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random());
    std::vector<float> scale;
    std::vector<float> zero;
    for (std::int64_t g = 0; g < shape.groups; ++g) {
      scale.push_back(static_cast<float>(random() % 1000) / 7919.0F);
      zero.push_back(static_cast<float>(random() % 1000) / 13.0F);
    }
    ErrorSums want;
    ErrorSums got;

    reference_->measure(block.block(), {codes.data(), scale.data(), zero.data()}, want);
    simd_->measure(block.block(), {codes.data(), scale.data(), zero.data()}, got);

    expect_same(got, want);
  }
}

TEST_P(SimdSolver, FindsTheRangeAsTheReferenceDoes) {
  std::mt19937_64 random(29);
  for (int i = 0; i < 600 && !HasFailure(); ++i) {
    const std::int64_t count = i < 200 ? i : static_cast<std::int64_t>(random() % 5000);
    const BlockShape shape{.groups = 1, .group_elems = std::max<std::int64_t>(count, 1)};
    RandomBlock block(random, shape, pick(random, kSources), random_kind(random), random_scale(random));
    if (i % 10 == 0) block.set(0, count / 2, std::numeric_limits<double>::quiet_NaN());
    SCOPED_TRACE(std::to_string(count) + " weights of " + std::string(name_of(block.block().dtype)));

    const WeightRange want = reference_->range(block.block().data, block.block().dtype, count);
    const WeightRange got = simd_->range(block.block().data, block.block().dtype, count);

    ASSERT_EQ(got.nonfinite, want.nonfinite);
    if (want.nonfinite) continue;
    EXPECT_EQ(got.lo, want.lo);
    EXPECT_EQ(std::signbit(got.lo), std::signbit(want.lo));
    EXPECT_EQ(got.hi, want.hi);
  }
}

std::string test_name(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Targets, SimdSolver, testing::ValuesIn(simd_targets()), test_name);

TEST(SimdTargets, AreNamedFastestFirstAndTheFirstIsTheDefault) {
  const std::vector<std::string> targets = simd_targets();

  ASSERT_FALSE(targets.empty());
  EXPECT_EQ(make_simd_solver()->name(), "simd " + targets.front());
}

TEST(SimdTargets, RefuseATargetThatIsNotThere) {
  try {
    (void)make_simd_solver("PDP11");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUsage);
    EXPECT_NE(std::string(error.what()).find("PDP11"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace halfquad
