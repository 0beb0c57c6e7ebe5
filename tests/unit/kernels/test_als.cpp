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

#include "kernels/als_search.h"
#include "kernels/decode.h"
#include "kernels/solver.h"
#include "tests/support/golden_hqq.h"
#include "tests/unit/kernels/random_groups.h"
#include "tests/unit/kernels/solver_outcome.h"

namespace halfquad {
namespace {

using test::expect_same;
using test::Outcome;
using test::RandomBlock;
using test::room_for;
using test::Weights;

constexpr CodeWidth kWidths[] = {CodeWidth::k1, CodeWidth::k1_58, CodeWidth::k2, CodeWidth::k3,
                                 CodeWidth::k4, CodeWidth::k5,    CodeWidth::k6, CodeWidth::k8};
constexpr ZeroKind kZeros[] = {ZeroKind::kFloat, ZeroKind::kInteger, ZeroKind::kSymmetric};
constexpr DType kSources[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF64};

template <class T, std::size_t kCount>
const T& pick(std::mt19937_64& random, const T (&from)[kCount]) {
  return from[random() % kCount];
}

SolveRequest request_of(CodeWidth width, DType stored = DType::kF32, ZeroKind zeros = ZeroKind::kFloat) {
  SolveRequest request;
  request.spec.zeros = zeros;
  request.spec.solver = SolverKind::kAls;
  request.spec.width = width;
  request.stored = stored;
  return request;
}

/// Column weights over up to `decades` powers of ten.
std::vector<float> random_importance(std::mt19937_64& random, std::int64_t cols, double decades) {
  std::uniform_real_distribution<double> exponent(-decades / 2, decades / 2);
  std::vector<float> h;
  for (std::int64_t i = 0; i < cols; ++i) h.push_back(static_cast<float>(std::pow(10.0, exponent(random))));
  return h;
}

/// Weighted sum of squared errors of one group's codes on its grid, in long double.
long double objective(const float* w, const float* h, const std::uint8_t* q, std::size_t count, float scale,
                      float zero) {
  long double sum = 0;
  for (std::size_t k = 0; k < count; ++k) {
    const long double e = static_cast<long double>(w[k]) - (q[k] - static_cast<long double>(zero)) * scale;
    sum += h[k] * e * e;
  }
  return sum;
}

/// Some groups of a random block in fp32.
std::vector<float> weights_of(const RandomBlock& random_block) {
  const GroupBlock& block = random_block.block();
  std::vector<float> w(static_cast<std::size_t>(block.groups * block.group_elems));
  for (std::int64_t g = 0; g < block.groups; ++g) {
    decode_to_f32(block.data + g * block.group_stride * bytes_of(block.dtype), block.dtype, block.group_elems,
                  w.data() + g * block.group_elems);
  }
  return w;
}

Outcome solve(Solver& solver, const RandomBlock& random_block, const ColumnWeights& importance,
              const SolveRequest& request) {
  SolveTarget target;
  Outcome out = room_for(random_block, 0, target);
  GroupBlock block = random_block.block();
  block.importance = importance;
  solver.solve(block, request, target, out.stats);
  return out;
}

/// The reference and every SIMD target that this CPU runs.
class Als : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Solver> solver_ = GetParam() == "reference" ? make_reference_solver() : make_simd_solver(GetParam());
  std::unique_ptr<Solver> reference_ = make_reference_solver();
};

/// What a solver makes of a golden case against the result there: ratio of the objectives, share of other codes.
struct Compared {
  double ratio = 0;
  double different = 0;
};
Compared compare(Solver& solver, const test::GoldenFile& inputs, const test::GoldenFile& golden,
                 const std::string& name, ZeroKind zeros) {
  const std::string codes_name = name + ".codes";
  const auto& expected = golden.at(codes_name);
  const std::string input = name.substr(0, name.find('.'));
  const auto elems = static_cast<std::size_t>(std::stoi(name.substr(name.find(".g") + 2)));
  const std::vector<float> w = inputs.at(input).floats();
  const std::vector<float> h = inputs.at(input + ".h").floats();
  const std::vector<float> scale = golden.at(name + ".scale").floats();
  const std::vector<float> zero = golden.at(name + ".zero").floats();
  const auto stride = static_cast<std::int64_t>(elems);
  const GroupBlock block{.data = reinterpret_cast<const std::byte*>(w.data()),
                         .groups = static_cast<std::int64_t>(scale.size()),
                         .group_elems = stride,
                         .group_stride = stride,
                         .importance = {.h = h.data(), .cols = static_cast<std::int64_t>(h.size())}};
  std::vector<std::uint8_t> codes(w.size());
  std::vector<float> got_scale(scale.size());
  std::vector<float> got_zero(scale.size());
  SolveStats stats;

  const auto width = code_width_from_name(name.substr(name.find(".b") + 2, 1));
  solver.solve(block, request_of(width.value(), DType::kF32, zeros),
               {.codes = codes.data(), .group_stride = stride, .scale = got_scale.data(), .zero = got_zero.data()},
               stats);

  long double want = 0;
  long double got = 0;
  std::size_t different = 0;
  for (std::size_t g = 0; g < scale.size(); ++g) {
    const std::size_t at = g * elems;
    const float* weights_of_columns = h.data() + at % h.size();
    const auto* q = reinterpret_cast<const std::uint8_t*>(expected.bytes.data()) + at;
    want += objective(&w[at], weights_of_columns, q, elems, scale[g], zero[g]);
    got += objective(&w[at], weights_of_columns, &codes[at], elems, got_scale[g], got_zero[g]);
    for (std::size_t k = 0; k < elems; ++k) different += std::size_t{q[k] != codes[at + k]};
  }
  return {static_cast<double>(got / want), static_cast<double>(different) / static_cast<double>(w.size())};
}

std::vector<std::string> cases_of(const test::GoldenFile& golden) {
  std::vector<std::string> cases;
  for (const auto& [name, expected] : golden) {
    if (const std::size_t end = name.find(".codes"); end != std::string::npos) cases.push_back(name.substr(0, end));
  }
  return cases;
}

test::GoldenFile golden_file(const std::string& name) {
  return test::read_golden_file(std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "als" / name);
}

TEST_P(Als, ComesAsCloseAsTheIndependentSearch) {
  const test::GoldenFile golden = golden_file("als.safetensors");
  EXPECT_EQ(cases_of(golden).size(), 14U);
  for (const std::string& name : cases_of(golden)) {
    const Compared compared = compare(*solver_, golden, golden, name, ZeroKind::kFloat);
    EXPECT_NEAR(compared.ratio, 1, 1e-4) << name;
    EXPECT_LE(compared.different, 0.005) << name;
  }
}

TEST_P(Als, ComesAsCloseWithWholeZeros) {
  const test::GoldenFile inputs = golden_file("als.safetensors");
  const test::GoldenFile golden = golden_file("whole.safetensors");
  EXPECT_EQ(cases_of(golden).size(), 14U);
  for (const std::string& name : cases_of(golden)) {
    const bool symmetric = name.find("symmetric") != std::string::npos;
    const Compared compared =
        compare(*solver_, inputs, golden, name, symmetric ? ZeroKind::kSymmetric : ZeroKind::kInteger);
    // Of integer zeros the best five candidates alone take all rounds.
    const double more = symmetric ? 1e-4 : name.starts_with("decades") ? 1e-2 : 1e-3;
    EXPECT_LE(compared.ratio, 1 + more) << name;
    EXPECT_GE(compared.ratio, 0.998) << name;
    EXPECT_LE(compared.different, 0.1) << name;
  }
}

/// What round to nearest between the smallest and the largest weight leaves, in long double.
long double nearest_objective(const float* w, const float* h, std::size_t count, float largest_code, ZeroKind zeros) {
  const auto [least, most] = std::minmax_element(w, w + count);
  float lo = zeros == ZeroKind::kFloat ? *least : std::min(*least, 0.0F);
  float hi = zeros == ZeroKind::kFloat ? *most : std::max(*most, 0.0F);
  if (zeros == ZeroKind::kSymmetric) hi = std::max(-lo, hi);
  if (zeros == ZeroKind::kSymmetric) lo = -hi;
  const float range = hi - lo;
  const float scale = range > 0 ? range / largest_code : 1.0F;
  float zero = -lo / scale;
  if (zeros == ZeroKind::kInteger) zero = std::nearbyint(zero);
  if (zeros == ZeroKind::kSymmetric) zero = std::floor((largest_code + 1) / 2);
  std::vector<std::uint8_t> q;
  for (std::size_t k = 0; k < count; ++k) {
    q.push_back(static_cast<std::uint8_t>(std::clamp(std::nearbyint(w[k] / scale + zero), 0.0F, largest_code)));
  }
  return objective(w, h, q.data(), count, scale, zero);
}

TEST_P(Als, IsNeverWorseThanRoundToNearest) {
  std::mt19937_64 random(4);
  for (int i = 0; i < 160; ++i) {
    const auto kind = static_cast<Weights>(random() % test::kWeightsKinds);
    constexpr std::int64_t kGroupSizes[] = {32, 64, 128, 520};
    const std::int64_t elems = pick(random, kGroupSizes);
    const RandomBlock block(random, {.groups = 5, .group_elems = elems}, DType::kF32, kind, 0.1);
    const CodeWidth width = pick(random, kWidths);
    const ZeroKind zeros = pick(random, kZeros);
    const std::vector<float> h = random_importance(random, 5 * elems, static_cast<double>(random() % 8));

    const Outcome got =
        solve(*solver_, block, {.h = h.data(), .cols = 5 * elems}, request_of(width, DType::kF32, zeros));

    const std::vector<float> w = weights_of(block);
    for (std::size_t g = 0; g < 5; ++g) {
      SCOPED_TRACE(test::name_of(kind) + " " + std::string(name_of(width)) + " bits, group size " +
                   std::to_string(elems));
      const std::size_t at = g * static_cast<std::size_t>(elems);
      const auto count = static_cast<std::size_t>(elems);
      EXPECT_GT(got.scale[g], 0);
      const long double found = objective(&w[at], &h[at], &got.codes[at], count, got.scale[g], got.zero[g]);
      const long double nearest = nearest_objective(&w[at], &h[at], count, static_cast<float>(qmax(width)), zeros);
      if (zeros != ZeroKind::kFloat) {
        EXPECT_EQ(got.zero[g], std::nearbyint(got.zero[g]));
        EXPECT_TRUE(got.zero[g] >= 0 && got.zero[g] <= static_cast<float>(qmax(width))) << got.zero[g];
      }
      // Where a group lies far from zero, neither knows its weights better than fp32 does; constant is up to 1e-9.
      long double unknown = 0;
      for (std::size_t k = 0; k < count; ++k) {
        unknown += h[at + k] * std::pow(std::abs(w[at + k]) * 0x1p-22L + AlsSearch::kNarrowest, 2.0L);
      }
      EXPECT_LE(found, nearest * (1 + 1e-5L) + unknown);
    }
  }
}

TEST_P(Als, SolvesAnExactGridExactly) {
  std::vector<float> w;
  for (const int code : {3, 0, 15, 7, 7, 12, 1, 9, 4, 4, 4, 15, 2, 6, 0, 11}) w.push_back(0.25F * float(code) - 1.5F);
  std::vector<std::uint8_t> codes(16);
  float scale = 0;
  float zero = 0;
  SolveStats stats;

  solver_->solve({.data = reinterpret_cast<const std::byte*>(w.data()), .groups = 1, .group_elems = 16},
                 request_of(CodeWidth::k4), {.codes = codes.data(), .scale = &scale, .zero = &zero}, stats);

  EXPECT_EQ(scale, 0.25F);
  EXPECT_EQ(zero, 6.0F);
  EXPECT_EQ(codes, (std::vector<std::uint8_t>{3, 0, 15, 7, 7, 12, 1, 9, 4, 4, 4, 15, 2, 6, 0, 11}));
  EXPECT_EQ(stats.final_error.square.value(), 0);
}

TEST_P(Als, CanBeCheckedByHandAtOneBit) {
  const std::vector<float> w = {0, 1, 0, 1, 10, 0, 1, 0};
  std::vector<float> h(8, 1.0F);
  h[1] = 4;  // the mean of what becomes code 0: (4 + 1 + 1) / (4 + 6)
  std::vector<std::uint8_t> codes(8);
  float scale = 0;
  float zero = 0;
  SolveStats stats;
  GroupBlock block{.data = reinterpret_cast<const std::byte*>(w.data()), .groups = 1, .group_elems = 8};
  block.importance = {.h = h.data(), .cols = 8};

  solver_->solve(block, request_of(CodeWidth::k1), {.codes = codes.data(), .scale = &scale, .zero = &zero}, stats);

  EXPECT_NEAR(scale, 10 - 0.6, 1e-5);
  EXPECT_NEAR(-zero * scale, 0.6, 1e-5);
  EXPECT_EQ(codes, (std::vector<std::uint8_t>{0, 0, 0, 0, 1, 0, 0, 0}));
}

TEST_P(Als, FitsTheColumnsThatCount) {
  std::mt19937_64 random(6);
  for (const CodeWidth width : {CodeWidth::k2, CodeWidth::k3, CodeWidth::k4}) {
    const RandomBlock block(random, {.groups = 40, .group_elems = 64}, DType::kF32, Weights::kHeavyTails, 0.02);
    const std::vector<float> h = random_importance(random, 64, 4);
    const std::vector<float> ones(64, 1.0F);
    const std::vector<float> w = weights_of(block);
    const Outcome weighted = solve(*solver_, block, {h.data(), 64}, request_of(width));
    const Outcome plain = solve(*solver_, block, ColumnWeights{}, request_of(width));

    const auto total = [&](const Outcome& outcome, const std::vector<float>& by) {
      long double sum = 0;
      for (std::size_t g = 0; g < 40; ++g) {
        sum += objective(&w[g * 64], by.data(), &outcome.codes[g * 64], 64, outcome.scale[g], outcome.zero[g]);
      }
      return sum;
    };
    EXPECT_LT(total(weighted, h), 0.9L * total(plain, h));
    EXPECT_LT(total(plain, ones), 0.9L * total(weighted, ones));
  }
}

TEST_P(Als, OfConstantGroupsIsTheirValue) {
  for (const float value : {0.0F, -0.0F, 0.37F, -1e30F, 1e-30F, 1e-42F}) {
    const std::vector<float> w(67, value);
    std::vector<std::uint8_t> codes(67, 9);
    float scale = 0;
    float zero = 0;
    SolveStats stats;

    solver_->solve({.data = reinterpret_cast<const std::byte*>(w.data()), .groups = 1, .group_elems = 67},
                   request_of(CodeWidth::k3), {.codes = codes.data(), .scale = &scale, .zero = &zero}, stats);

    EXPECT_EQ(scale, 1.0F);
    EXPECT_EQ(zero, -value);
    EXPECT_EQ(codes, std::vector<std::uint8_t>(67, 0));
    EXPECT_EQ(stats.final_error.max_abs, 0);
  }
}

TEST_P(Als, EqualsTheReferenceByteForByte) {
  constexpr std::int64_t kGroupSizes[] = {1, 2, 3, 7, 8, 9, 16, 31, 32, 37, 64, 128, 513};
  constexpr std::int64_t kGroupCounts[] = {1, 2, 3, 15, 16, 17, 33};
  std::mt19937_64 random(7);
  for (int i = 0; i < 300; ++i) {
    SCOPED_TRACE("round " + std::to_string(i));
    const test::BlockShape shape{.groups = pick(random, kGroupCounts),
                                 .group_elems = pick(random, kGroupSizes),
                                 .padding = static_cast<std::int64_t>(random() % 3)};
    const auto kind = static_cast<Weights>(random() % test::kWeightsKinds);
    RandomBlock block(random, shape, pick(random, kSources), kind, 0.05);
    if (random() % 16 == 0) {
      block.set(shape.groups - 1, shape.group_elems / 2, random() % 2 == 0 ? std::nan("") : HUGE_VAL);
    }
    SolveRequest request =
        request_of(pick(random, kWidths), random() % 2 == 0 ? DType::kF16 : DType::kF32, pick(random, kZeros));
    request.spec.starts = 1 + static_cast<int>(random() % 7);
    request.spec.rounds = 1 + static_cast<int>(random() % 6);
    const std::int64_t cols = 1 + static_cast<std::int64_t>(random() % 700);
    const std::vector<float> h = random_importance(random, cols, static_cast<double>(random() % 8));
    ColumnWeights importance;
    if (random() % 4 != 0)
      importance = {h.data(), cols, static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(cols))};

    const Outcome got = solve(*solver_, block, importance, request);
    const Outcome want = solve(*reference_, block, importance, request);

    expect_same(got, want);
  }
}

TEST_P(Als, DoesNotDependOnTheCutIntoBlocks) {
  std::mt19937_64 random(8);
  constexpr std::int64_t kCols = 96;
  for (const std::int64_t elems : {std::int64_t{32}, std::int64_t{36}, kCols}) {  // 36: groups that cross rows
    const RandomBlock block(random, {.groups = 56, .group_elems = elems}, DType::kBF16, Weights::kHeavyTails, 0.02);
    const std::vector<float> h = random_importance(random, kCols, 4);
    const SolveRequest request = request_of(CodeWidth::k4, DType::kF16);
    const Outcome whole = solve(*solver_, block, {h.data(), kCols}, request);

    SolveTarget target;
    Outcome parts = room_for(block, 0, target);
    for (std::int64_t first = 0; first < 56;) {
      const std::int64_t count = std::min<std::int64_t>(56 - first, 1 + static_cast<std::int64_t>(random() % 21));
      GroupBlock part = block.block();
      part.data += first * part.group_stride * bytes_of(part.dtype);
      part.groups = count;
      part.importance = {h.data(), kCols, first * elems % kCols};
      solver_->solve(part, request,
                     {target.codes + first * target.group_stride, target.group_stride, 1, target.scale + first,
                      target.zero + first},
                     parts.stats);
      first += count;
    }

    expect_same(parts, whole);
  }
}

TEST_P(Als, WithoutImportanceEqualsColumnsThatCountAlike) {
  std::mt19937_64 random(9);
  const RandomBlock block(random, {.groups = 20, .group_elems = 64}, DType::kF32, Weights::kHeavyTails, 0.02);
  const std::vector<float> ones(128, 1.0F);

  const Outcome without = solve(*solver_, block, ColumnWeights{}, request_of(CodeWidth::k3));
  const Outcome with = solve(*solver_, block, {ones.data(), 128}, request_of(CodeWidth::k3));

  expect_same(without, with);
}

TEST_P(Als, RefitsZerosToStoredScales) {
  std::mt19937_64 random(10);
  for (const CodeWidth width : {CodeWidth::k2, CodeWidth::k4, CodeWidth::k8}) {
    const RandomBlock random_block(random, {.groups = 19, .group_elems = 64}, DType::kBF16, Weights::kGauss, 0.02);
    const std::vector<float> h = random_importance(random, 64, 4);
    const ColumnWeights importance{h.data(), 64};
    const Outcome solved = solve(*solver_, random_block, importance, request_of(width));
    std::vector<float> inverse(19);
    std::vector<float> stored(19);
    for (std::size_t g = 0; g < 19; ++g) {
      inverse[g] = 1 / solved.scale[g];
      stored[g] = round_to(DType::kBF16, solved.scale[g]);
    }
    GroupBlock block = random_block.block();
    block.importance = importance;
    std::vector<float> zero(19);
    std::vector<float> want(19);
    const GroupGrids grids{inverse.data(), solved.scale.data(), solved.zero.data()};

    solver_->refit_zeros(block, width, grids, stored.data(), zero.data());
    reference_->refit_zeros(block, width, grids, stored.data(), want.data());

    EXPECT_TRUE(test::same_bits(zero, want));
    const std::vector<float> w = weights_of(random_block);
    for (std::size_t g = 0; g < 19; ++g) {
      const auto with = [&](float z) {
        return objective(&w[g * 64], h.data(), &solved.codes[g * 64], 64, stored[g], z);
      };
      EXPECT_LE(with(zero[g]), with(solved.zero[g]) * (1 + 1e-6L));
      EXPECT_LE(with(zero[g]), with(zero[g] * 1.001F));
      EXPECT_LE(with(zero[g]), with(zero[g] * 0.999F));
    }
  }
}

TEST_P(Als, MeasuresWeightedErrorsOfCodesOnGivenGrids) {
  std::mt19937_64 random(11);
  for (const std::int64_t elems : {std::int64_t{32}, std::int64_t{37}, std::int64_t{128}, std::int64_t{513}}) {
    const RandomBlock random_block(random, {.groups = 35, .group_elems = elems}, DType::kBF16, Weights::kHeavyTails,
                                   0.02);
    const std::vector<float> h = random_importance(random, 200, 6);
    const Outcome grids = solve(*reference_, random_block, {h.data(), 200}, request_of(CodeWidth::k3));
    std::vector<float> inverse;
    for (const float scale : grids.scale) inverse.push_back(1 / scale);
    GroupBlock block = random_block.block();
    block.importance = {h.data(), 200, 17};
    const auto encoded = [&](Solver& solver) {
      SolveTarget target;
      Outcome out = room_for(random_block, 0, target);
      solver.encode_groups(block, CodeWidth::k3, {inverse.data(), grids.scale.data(), grids.zero.data()}, target,
                           out.stats);
      return out;
    };

    const Outcome got = encoded(*solver_);

    const ErrorSums want = encoded(*reference_).stats.final_error;
    expect_same(got.stats.final_error, want);
    ErrorSums measured;
    solver_->measure(block, {got.codes.data(), grids.scale.data(), grids.zero.data()}, measured);
    expect_same(measured, want);
    const std::vector<float> w = weights_of(random_block);
    long double square = 0;
    long double weight2 = 0;
    for (std::size_t i = 0; i < w.size(); ++i) {
      const std::size_t g = i / static_cast<std::size_t>(elems);
      const long double e = w[i] - (got.codes[i] - static_cast<long double>(grids.zero[g])) * grids.scale[g];
      square += h[(17 + i) % 200] * e * e;
      weight2 += h[(17 + i) % 200] * static_cast<long double>(w[i]) * w[i];
    }
    EXPECT_NEAR(want.weighted_square.value() / static_cast<double>(square), 1, 1e-5);
    EXPECT_NEAR(want.weighted_weight2.value() / static_cast<double>(weight2), 1, 1e-6);
  }
}

std::vector<std::string> solvers() {
  std::vector<std::string> names = simd_targets();
  names.emplace_back("reference");
  return names;
}

INSTANTIATE_TEST_SUITE_P(Solvers, Als, testing::ValuesIn(solvers()), [](const auto& solver) {
  std::string name = solver.param;
  std::erase_if(name, [](unsigned char c) { return std::isalnum(c) == 0; });
  return name;
});

TEST(AlsSearch, StartsFromTheseParts) {
  EXPECT_EQ(AlsSearch::part(0, 1), 1.0F);
  const float of_five[] = {1.0F, 0.9F, 0.8F, 0.7F, 0.6F};
  for (int i = 0; i < 5; ++i) EXPECT_EQ(AlsSearch::part(i, 5), of_five[i]);
  EXPECT_EQ(AlsSearch::part(1, 41), 0.99F);
  EXPECT_EQ(AlsSearch::part(40, 41), 0.6F);
}

}  // namespace
}  // namespace halfquad
