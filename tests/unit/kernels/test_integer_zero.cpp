#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/integer_zero.h"
#include "kernels/solver.h"
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
using test::solve;
using test::Weights;

constexpr CodeWidth kWidths[] = {CodeWidth::k1, CodeWidth::k1_58, CodeWidth::k2, CodeWidth::k3,
                                 CodeWidth::k4, CodeWidth::k5,    CodeWidth::k6, CodeWidth::k8};
constexpr DType kSources[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF64};
constexpr std::int64_t kGroupSizes[] = {1, 2, 3, 8, 9, 16, 31, 32, 37, 64, 128, 513};
constexpr std::int64_t kGroupCounts[] = {1, 2, 3, 15, 16, 17, 33};
constexpr ZeroKind kWhole[] = {ZeroKind::kInteger, ZeroKind::kSymmetric};

template <class T, std::size_t kCount>
const T& pick(std::mt19937_64& random, const T (&from)[kCount]) {
  return from[random() % kCount];
}

SolveRequest request_of(ZeroKind zeros, CodeWidth width) {
  SolveRequest request;
  request.spec.zeros = zeros;
  request.spec.width = width;
  request.stored = DType::kF32;
  return request;
}

/// Sum of squared errors of one group's codes on its grid, in double.
double square_error(const float* w, const std::uint8_t* q, std::int64_t count, double scale, double zero) {
  double sum = 0;
  for (std::int64_t k = 0; k < count; ++k) sum += std::pow(double{w[k]} - (q[k] - zero) * scale, 2);
  return sum;
}

/// The best sum of squared errors of one group over finely spaced scales, with a given zero.
double best_square_error(const float* w, std::int64_t count, double zero, double largest_code) {
  double range = 0;
  for (std::int64_t k = 0; k < count; ++k) range = std::max(range, std::abs(double{w[k]}));
  double best = std::numeric_limits<double>::infinity();
  for (int i = 1; i <= 1000; ++i) {
    const double scale = range * i / 1000 * 2.5 / largest_code;
    double sum = 0;
    for (std::int64_t k = 0; k < count; ++k) {
      const double q = std::clamp(std::nearbyint(w[k] / scale + zero), 0.0, largest_code);
      sum += std::pow(w[k] - (q - zero) * scale, 2);
    }
    best = std::min(best, sum);
  }
  return best;
}

/// The reference and every SIMD target that this CPU runs.
class IntegerZero : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Solver> solver_ = GetParam() == "reference" ? make_reference_solver() : make_simd_solver(GetParam());
  std::unique_ptr<Solver> reference_ = make_reference_solver();
};

TEST_P(IntegerZero, ComesAtLeastAsCloseAsTheIndependentSearch) {
  const std::filesystem::path folder = HALFQUAD_GOLDEN_DIR;
  const test::GoldenFile golden = test::read_golden_file(folder / "solvers" / "integer_zero.safetensors");
  int cases = 0;
  for (const auto& [name, expected] : golden) {
    const std::size_t end = name.find(".codes");
    if (end == std::string::npos) continue;
    ++cases;
    SCOPED_TRACE(name);
    const std::string input = name.substr(0, name.find('.'));
    const std::int64_t group_size = std::stoi(name.substr(name.find(".g") + 2));
    const std::vector<float> w = golden.at(input).floats();
    const std::vector<float> scale = golden.at(name.substr(0, end) + ".scale").floats();
    const std::vector<float> zero = golden.at(name.substr(0, end) + ".zero").floats();
    const auto groups = static_cast<std::int64_t>(scale.size());
    const GroupBlock block{.data = reinterpret_cast<const std::byte*>(w.data()),
                           .groups = groups,
                           .group_elems = group_size,
                           .group_stride = group_size};
    std::vector<std::uint8_t> codes(w.size());
    std::vector<float> got_scale(scale.size());
    std::vector<float> got_zero(scale.size());
    SolveStats stats;

    const auto width = code_width_from_name(name.substr(name.find(".b") + 2, 1));
    solver_->solve(
        block, request_of(ZeroKind::kInteger, width.value()),
        {.codes = codes.data(), .group_stride = group_size, .scale = got_scale.data(), .zero = got_zero.data()}, stats);

    double want = 0;
    double got = 0;
    for (std::int64_t g = 0; g < groups; ++g) {
      const auto at = static_cast<std::size_t>(g * group_size);
      const auto i = static_cast<std::size_t>(g);
      const auto* q = reinterpret_cast<const std::uint8_t*>(expected.bytes.data()) + at;
      want += square_error(&w[at], q, group_size, scale[i], zero[i]);
      got += square_error(&w[at], &codes[at], group_size, got_scale[i], got_zero[i]);
    }
    EXPECT_LE(got / want, 1 + 1e-4);
    EXPECT_GE(got / want, 0.97);
    EXPECT_NEAR(stats.final_error.square.value() / got, 1, 1e-5);
  }
  EXPECT_EQ(cases, 15);
}

TEST_P(IntegerZero, HasAGridNearTheBestThereIs) {
  constexpr std::int64_t kElems[] = {32, 64, 160};
  std::mt19937_64 random(3);
  for (const CodeWidth width : kWidths) {
    for (const ZeroKind zeros : kWhole) {
      if (zeros == ZeroKind::kInteger && qmax(width) > 15) continue;  // more zeros than there is time for
      const std::int64_t elems = pick(random, kElems);
      const auto kind = random() % 2 == 0 ? Weights::kHeavyTails : Weights::kGauss;
      const std::int64_t groups = 10;
      const RandomBlock block(random, {.groups = groups, .group_elems = elems}, DType::kF32, kind, 0.02);

      const Outcome got = solve(*solver_, block, 0, request_of(zeros, width));

      double best = 0;
      double found = 0;
      for (std::int64_t g = 0; g < groups; ++g) {
        std::vector<float> w(static_cast<std::size_t>(elems));
        std::memcpy(w.data(), block.block().data + static_cast<std::size_t>(g * elems) * sizeof(float),
                    w.size() * sizeof(float));
        const auto i = static_cast<std::size_t>(g);
        const float middle = static_cast<float>((qmax(width) + 1) / 2);
        if (zeros == ZeroKind::kSymmetric) {
          EXPECT_EQ(got.zero[i], middle);
        }
        double least = std::numeric_limits<double>::infinity();
        for (int zero = 0; zero <= qmax(width); ++zero) {
          if (zeros == ZeroKind::kSymmetric && static_cast<float>(zero) != middle) continue;
          least = std::min(least, best_square_error(w.data(), elems, zero, qmax(width)));
        }
        best += least;
        found += square_error(w.data(), &got.codes[i * w.size()], elems, got.scale[i], got.zero[i]);
      }
      // With many codes a scale may be lucky with all of a group.
      EXPECT_LE(found, (qmax(width) > 15 ? 1.25 : 1.04) * best)
          << name_of(width) << " bits, groups of " << elems << ", " << test::name_of(kind);
    }
  }
}

TEST_P(IntegerZero, IsWholeAndNeverWorseThanRoundToNearest) {
  std::mt19937_64 random(4);
  for (int i = 0; i < 300; ++i) {
    const auto kind = static_cast<Weights>(random() % test::kWeightsKinds);
    const std::int64_t elems = pick(random, kGroupSizes);
    const double size = std::pow(10.0, std::uniform_real_distribution<double>(-8, 6)(random));
    const RandomBlock block(random, {.groups = 20, .group_elems = elems}, DType::kF32, kind, size);
    // Where there are many codes, rounding to nearest is hard to better.
    const CodeWidth width = i % 3 == 0 ? CodeWidth::k8 : pick(random, kWidths);
    SolveRequest request = request_of(pick(random, kWhole), width);
    request.spec.iters = 1 + static_cast<int>(random() % 6);
    const Outcome solved = solve(*solver_, block, 0, request);
    request.spec.solver = SolverKind::kRtn;
    const Outcome rounded = solve(*solver_, block, 0, request);
    if (solved.stats.nonfinite) continue;  // a range beyond fp32

    for (std::int64_t g = 0; g < 20; ++g) {
      const auto at = static_cast<std::size_t>(g * elems);
      const auto n = static_cast<std::size_t>(g);
      std::vector<float> w(static_cast<std::size_t>(elems));
      std::memcpy(w.data(), block.block().data + at * sizeof(float), w.size() * sizeof(float));
      EXPECT_EQ(solved.zero[n], std::nearbyint(solved.zero[n]));
      EXPECT_GE(solved.zero[n], 0);
      EXPECT_LE(solved.zero[n], static_cast<float>(qmax(request.spec.width)));
      EXPECT_GT(solved.scale[n], 0);
      const double found = square_error(w.data(), &solved.codes[at], elems, solved.scale[n], solved.zero[n]);
      const double nearest = square_error(w.data(), &rounded.codes[at], elems, rounded.scale[n], rounded.zero[n]);
      double noise = 0;  // what fp32 products and differences can make of no error
      for (const float weight : w) noise += std::pow(0x1p-22 * weight, 2);
      EXPECT_LE(found, nearest * (1 + 1e-5) + noise) << test::name_of(kind);
    }
  }
}

TEST_P(IntegerZero, LeavesNoErrorWhereThereNeedBeNone) {
  std::mt19937_64 random(10);
  for (const CodeWidth width : kWidths) {
    for (const ZeroKind zeros : kWhole) {
      if (zeros == ZeroKind::kSymmetric && width == CodeWidth::k8) continue;  // 256 / 255 is too far from the start
      for (const std::int64_t elems : {4, 64, 1000}) {
        const int largest = qmax(width);
        const int zero = zeros == ZeroKind::kSymmetric ? (largest + 1) / 2 : static_cast<int>(random() % 2) * largest;
        RandomBlock block(random, {.groups = 17, .group_elems = elems}, DType::kF32, Weights::kGauss, 1);
        for (std::int64_t g = 0; g < 17; ++g) {
          for (std::int64_t k = 0; k < elems; ++k) {
            // All weights are multiples of one scale; among them always one that is as far out as that allows.
            const int q =
                k == 0 ? (zero == 0 ? largest : 0) : static_cast<int>(random() % (static_cast<unsigned>(largest) + 1));
            block.set(g, k, 0.37 * (q - zero));
          }
        }

        const Outcome got = solve(*solver_, block, 0, request_of(zeros, width));

        const double weights = got.stats.final_error.weight2.value();
        EXPECT_LE(got.stats.final_error.square.value(), 1e-9 * weights)
            << name_of(width) << " bits, groups of " << elems << ", zero " << zero;
      }
    }
  }
}

// Where nothing is clamped neighbouring zeros leave the same error; of small groups few are tried at all.
TEST_P(IntegerZero, ChoosesAmongEqualZerosAsTheReferenceDoes) {
  std::mt19937_64 random(11);
  std::normal_distribution<double> gauss;
  constexpr std::int64_t kGroups = 512, kElems = 16;
  for (const CodeWidth width : {CodeWidth::k2, CodeWidth::k4, CodeWidth::k5, CodeWidth::k8}) {
    RandomBlock block(random, {.groups = kGroups, .group_elems = kElems}, DType::kF32, Weights::kGauss, 1);
    for (std::int64_t i = 0; i < kGroups * kElems; ++i) {
      block.set(i / kElems, i % kElems, std::nearbyint(gauss(random) * 64) / 64);
    }

    const Outcome want = solve(*reference_, block, 0, request_of(ZeroKind::kInteger, width));
    const Outcome got = solve(*solver_, block, 0, request_of(ZeroKind::kInteger, width));

    SCOPED_TRACE(name_of(width));
    expect_same(got, want);
  }
}

TEST_P(IntegerZero, OfRoundToNearestCanBeCheckedByHand) {
  const std::vector<float> w = {-1, 0, 0.5F, 2, 1, 1, 1, 3};  // ranges -1..2 and, extended, 0..3
  std::vector<std::uint8_t> codes(8);
  float scale[2];
  float zero[2];
  SolveRequest request = request_of(ZeroKind::kInteger, CodeWidth::k2);
  request.spec.solver = SolverKind::kRtn;
  const GroupBlock block{
      .data = reinterpret_cast<const std::byte*>(w.data()), .groups = 2, .group_elems = 4, .group_stride = 4};
  const SolveTarget target{.codes = codes.data(), .group_stride = 4, .scale = scale, .zero = zero};
  SolveStats stats;

  solver_->solve(block, request, target, stats);

  EXPECT_EQ(codes, (std::vector<std::uint8_t>{0, 1, 2, 3, 1, 1, 1, 3}));
  EXPECT_EQ(scale[0], 1.0F);
  EXPECT_EQ(zero[0], 1.0F);
  EXPECT_EQ(scale[1], 1.0F);
  EXPECT_EQ(zero[1], 0.0F);

  request.spec.zeros = ZeroKind::kSymmetric;  // range -2..2, then -3..3
  solver_->solve(block, request, target, stats);

  EXPECT_EQ(codes, (std::vector<std::uint8_t>{1, 2, 2, 3, 2, 2, 2, 3}));
  EXPECT_EQ(scale[0], 4.0F / 3);
  EXPECT_EQ(zero[0], 2.0F);
  EXPECT_EQ(scale[1], 2.0F);
}

TEST_P(IntegerZero, KeepsGroupsOfNothingAtZero) {
  const std::vector<float> w(8, 0.0F);
  std::vector<std::uint8_t> codes(8, 9);
  float scale = 0;
  float zero = 0;
  SolveStats stats;
  for (const ZeroKind zeros : kWhole) {
    solver_->solve({.data = reinterpret_cast<const std::byte*>(w.data()), .groups = 1, .group_elems = 8},
                   request_of(zeros, CodeWidth::k4), {.codes = codes.data(), .scale = &scale, .zero = &zero}, stats);

    EXPECT_EQ(zero, zeros == ZeroKind::kInteger ? 0.0F : 8.0F);
    EXPECT_EQ(scale, 1.0F);
    EXPECT_EQ(codes, std::vector<std::uint8_t>(8, zeros == ZeroKind::kInteger ? 0 : 8));
  }
}

TEST_P(IntegerZero, StopsAfterTheRoundsAsked) {
  std::mt19937_64 random(8);
  const RandomBlock block(random, {.groups = 40, .group_elems = 64}, DType::kF32, Weights::kHeavyTails, 0.02);
  SolveRequest request = request_of(ZeroKind::kInteger, CodeWidth::k3);
  std::vector<double> errors;
  for (const int iters : {1, 2, 5, 20}) {
    request.spec.iters = iters;
    errors.push_back(solve(*solver_, block, 0, request).stats.final_error.square.value());
  }

  EXPECT_LT(errors[1], errors[0]);
  EXPECT_LT(errors[2], errors[1]);
  EXPECT_EQ(errors[3], errors[2]);
}

TEST_P(IntegerZero, EqualsTheReferenceForEveryShape) {
  std::mt19937_64 random(5);
  for (const std::int64_t group_elems : kGroupSizes) {
    for (const std::int64_t groups : kGroupCounts) {
      for (const int axis : {0, 1}) {
        const BlockShape shape{.groups = groups, .group_elems = group_elems, .axis = axis, .padding = groups % 2};
        const auto kind = static_cast<Weights>(random() % test::kWeightsKinds);
        const double scale = std::pow(10.0, std::uniform_real_distribution<double>(-3, 1.5)(random));
        const RandomBlock block(random, shape, pick(random, kSources), kind, scale);
        SolveRequest request = request_of(pick(random, kWhole), pick(random, kWidths));
        request.spec.solver = random() % 8 == 0 ? SolverKind::kRtn : SolverKind::kHqq;
        request.spec.iters = 1 + static_cast<int>(random() % 6);
        request.stored = DType::kF16;
        SCOPED_TRACE(std::to_string(groups) + " groups of " + std::to_string(group_elems) + ", " + test::name_of(kind));

        const Outcome want = solve(*reference_, block, 1, request);
        const Outcome got = solve(*solver_, block, 1, request);

        expect_same(got, want);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(IntegerZero, FlagsWhatIsNotFinite) {
  constexpr double kBad[] = {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
                             std::numeric_limits<double>::quiet_NaN()};
  std::mt19937_64 random(6);
  for (int i = 0; i < 100; ++i) {
    const BlockShape shape{.groups = 1 + i % 20, .group_elems = 1 + i % 40, .axis = i % 2};
    RandomBlock block(random, shape, DType::kF32, Weights::kGauss, 1.0);
    const auto g = static_cast<std::int64_t>(random() % 1000) % shape.groups;
    const auto k = static_cast<std::int64_t>(random() % 1000) % shape.group_elems;
    block.set(g, k, pick(random, kBad));

    EXPECT_TRUE(solve(*solver_, block, 0, request_of(kWhole[i % 2], CodeWidth::k4)).stats.nonfinite);
  }
  RandomBlock block(random, {.groups = 5, .group_elems = 32}, DType::kF32, Weights::kGauss, 1.0);
  block.set(3, 7, 3e38);
  EXPECT_FALSE(solve(*solver_, block, 0, request_of(ZeroKind::kInteger, CodeWidth::k4)).stats.nonfinite);
  EXPECT_TRUE(solve(*solver_, block, 0, request_of(ZeroKind::kSymmetric, CodeWidth::k4)).stats.nonfinite);
}

TEST_P(IntegerZero, OrAnyGridComesWithoutCodesOnRequest) {
  std::mt19937_64 random(9);
  for (int i = 0; i < 60 && !HasFailure(); ++i) {
    const BlockShape shape{
        .groups = pick(random, kGroupCounts), .group_elems = pick(random, kGroupSizes), .axis = i % 2};
    const auto kind = static_cast<Weights>(random() % test::kWeightsKinds);
    const RandomBlock block(random, shape, DType::kF32, kind, 0.5);
    SolveRequest request = request_of(i % 3 == 0 ? ZeroKind::kFloat : pick(random, kWhole), pick(random, kWidths));
    const Outcome all = solve(*solver_, block, 0, request);
    request.finish = Finish::kGridOnly;

    const Outcome grids = solve(*solver_, block, 0, request);

    EXPECT_TRUE(test::same_bits(grids.scale, all.scale));
    EXPECT_TRUE(test::same_bits(grids.zero, all.zero));
    EXPECT_EQ(grids.codes, std::vector<std::uint8_t>(all.codes.size(), 0xEE));
    EXPECT_TRUE(grids.stats.final_error.weight2.value() == 0);
    EXPECT_EQ(grids.stats.step_abs.front().digits(), all.stats.step_abs.front().digits());
  }
}

TEST_P(IntegerZero, EncodesGroupsOnTheirOwnGrids) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 300 && !HasFailure(); ++i) {
    const BlockShape shape{
        .groups = pick(random, kGroupCounts), .group_elems = pick(random, kGroupSizes), .axis = i % 2};
    const auto kind = static_cast<Weights>(random() % test::kWeightsKinds);
    RandomBlock block(random, shape, pick(random, kSources), kind, 0.5);
    if (i % 50 == 0) block.set(shape.groups / 2, shape.group_elems / 2, std::numeric_limits<double>::quiet_NaN());
    std::vector<float> grids[3];
    for (std::int64_t g = 0; g < shape.groups; ++g) {
      const float scale = static_cast<float>(1 + random() % 1000) / 7919.0F;
      grids[0].push_back(1 / scale);
      grids[1].push_back(scale);
      grids[2].push_back(static_cast<float>(random() % 1000) / 13.0F - 20);
    }
    const GroupGrids given{grids[0].data(), grids[1].data(), grids[2].data()};
    const CodeWidth width = pick(random, kWidths);
    SCOPED_TRACE(std::to_string(shape.groups) + " groups of " + std::to_string(shape.group_elems));
    SolveTarget target;

    Outcome want = room_for(block, 1, target);
    reference_->encode_groups(block.block(), width, given, target, want.stats);
    Outcome got = room_for(block, 1, target);
    solver_->encode_groups(block.block(), width, given, target, got.stats);

    ASSERT_TRUE(want.stats.nonfinite || i % 50 != 0);
    expect_same(got, want);
  }
}

TEST_P(IntegerZero, EncodesAGroupThatCanBeCheckedByHand) {
  const std::vector<float> w = {-1, 0, 0.9F, 7, 0, 0, 0, 0.5F, 4, -4, 0, 1};
  const std::vector<float> inverse_scale = {1, 4, 0};
  const std::vector<float> scale = {1, 0.25F, 0};
  const std::vector<float> zero = {2, -1, 2};
  std::vector<std::uint8_t> codes(12);
  SolveStats stats;

  solver_->encode_groups(
      {.data = reinterpret_cast<const std::byte*>(w.data()), .groups = 3, .group_elems = 4, .group_stride = 4},
      CodeWidth::k2, {inverse_scale.data(), scale.data(), zero.data()}, {.codes = codes.data(), .group_stride = 4},
      stats);

  EXPECT_EQ(codes, (std::vector<std::uint8_t>{1, 2, 3, 3, 0, 0, 0, 1, 2, 2, 2, 2}));
  EXPECT_NEAR(stats.final_error.abs.value(), 0.1 + 6 + 3 * 0.25 + 9, 1e-6);
  EXPECT_EQ(stats.final_error.max_abs, 6.0F);
}

std::vector<std::string> solvers() {
  std::vector<std::string> names = simd_targets();
  names.emplace_back("reference");
  return names;
}

std::string test_name(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Solvers, IntegerZero, testing::ValuesIn(solvers()), test_name);

}  // namespace
}  // namespace halfquad
