#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/column_importance.h"
#include "kernels/decode.h"
#include "tests/support/golden_hqq.h"

namespace halfquad {
namespace {

const std::byte* bytes(const std::vector<float>& w) { return reinterpret_cast<const std::byte*>(w.data()); }

ColumnMoments moments_of(const std::vector<float>& w, std::int64_t cols) {
  ColumnMoments moments(cols);
  moments.add(bytes(w), DType::kF32, 0, static_cast<std::int64_t>(w.size()));
  return moments;
}

/// Columns of very different scale, some values far from their column's others, zeros.
std::vector<float> random_matrix(std::mt19937_64& random, std::int64_t rows, std::int64_t cols) {
  std::normal_distribution<float> gauss;
  std::uniform_real_distribution<float> decades(-6, 3);
  std::vector<float> scale;
  for (std::int64_t j = 0; j < cols; ++j) scale.push_back(std::pow(10.0F, decades(random)));
  std::vector<float> w;
  for (std::int64_t i = 0; i < rows * cols; ++i) {
    float value = gauss(random) * scale[static_cast<std::size_t>(i % cols)];
    const auto die = random() % 50;
    if (die == 0) value *= std::pow(10.0F, 3 * decades(random));
    if (die == 1) value = 0;
    w.push_back(value);
  }
  return w;
}

float cut(float w) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &w, sizeof bits);
  bits &= 0x7FFF'C000U;
  std::memcpy(&w, &bits, sizeof bits);
  return w;
}

TEST(ColumnMoments, AreTheExactSumsRoundedOnce) {
  std::mt19937_64 random(1);
  constexpr std::int64_t kRows = 700;  // more than between two flushes
  constexpr std::int64_t kCols = 37;
  const std::vector<float> w = random_matrix(random, kRows, kCols);

  ColumnMoments moments = moments_of(w, kCols);

  for (std::int64_t j = 0; j < kCols; ++j) {
    ExactSum abs;
    ExactSum square;
    for (std::int64_t i = 0; i < kRows; ++i) {
      const float a = cut(w[static_cast<std::size_t>(i * kCols + j)]);
      abs.add(a);
      square.add(a * a);
    }
    EXPECT_EQ(moments.abs_sum(j), abs.value()) << j;
    EXPECT_EQ(moments.square_sum(j), square.value()) << j;
  }
}

TEST(ColumnMoments, StayExactOverManyRows) {
  std::vector<float> w = {1};  // the window is 2^-9 to 2^3
  for (int i = 0; i < 20000; ++i) w.push_back(i % 2 == 0 ? 7.984375F : 0x1.008p-9F);

  ColumnMoments moments = moments_of(w, 1);

  ExactSum square;
  for (const float value : w) square.add(value * value);
  EXPECT_EQ(moments.square_sum(0), square.value());
}

TEST(ColumnMoments, DoNotDependOnCutsAndOrder) {
  std::mt19937_64 random(2);
  constexpr std::int64_t kCols = 45;
  const std::vector<float> w = random_matrix(random, 100, kCols);
  ColumnMoments whole = moments_of(w, kCols);
  const auto want = whole.digits();

  struct Run {
    std::int64_t begin, count;
  };
  std::vector<Run> runs;
  for (std::int64_t at = 0; at < 100 * kCols;) {
    runs.push_back({at, std::min<std::int64_t>(100 * kCols - at, 1 + static_cast<std::int64_t>(random() % 200))});
    at += runs.back().count;
  }
  std::shuffle(runs.begin(), runs.end(), random);
  ColumnMoments parts[3]{ColumnMoments(kCols), ColumnMoments(kCols), ColumnMoments(kCols)};
  for (const Run& run : runs) {
    parts[random() % 3].add(bytes(w) + run.begin * 4, DType::kF32, run.begin % kCols, run.count);
  }
  std::vector<std::uint64_t> sums(want.size());
  for (ColumnMoments& part : parts) {
    const auto digits = part.digits();
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += digits[i];
  }
  ColumnMoments reduced(kCols);
  reduced.assign(sums);
  parts[1].add(parts[2]);
  parts[1].add(parts[0]);

  EXPECT_EQ(reduced.digits(), want);
  EXPECT_EQ(parts[1].digits(), want);
}

TEST(ColumnMoments, LeaveOutWhatIsNotFinite) {
  std::vector<float> w = {1, 2, std::numeric_limits<float>::infinity(), std::nanf(""), 3, 4};

  ColumnMoments moments = moments_of(w, 2);

  EXPECT_EQ(moments.abs_sum(0), 4);
  EXPECT_EQ(moments.square_sum(1), 20);
}

TEST(ColumnMoments, TakeEverySourceType) {
  const std::vector<float> w = {0.5F, -1.25F, 3, 0.0625F};
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    std::vector<std::byte> stored(16);
    encode_from_f32(w.data(), dtype, 4, stored.data());
    ColumnMoments moments(2);
    moments.add(stored.data(), dtype, 1, 4);

    EXPECT_EQ(moments.abs_sum(1), 3.5);
    EXPECT_EQ(moments.square_sum(0), 1.56640625);
  }
}

TEST(ColumnImportance, EqualsTheIndependentOneButForRounding) {
  const std::filesystem::path folder = HALFQUAD_GOLDEN_DIR;
  const test::GoldenFile golden = test::read_golden_file(folder / "als" / "als.safetensors");
  for (const char* input : {"tails", "loud"}) {
    const std::vector<float> want = golden.at(std::string(input) + ".h").floats();
    ColumnMoments moments = moments_of(golden.at(input).floats(), 256);

    const std::vector<float> h = column_importance(moments, 40);

    ASSERT_EQ(h.size(), want.size());
    for (std::size_t j = 0; j < h.size(); ++j) EXPECT_NEAR(h[j] / want[j], 1, 3e-3) << j;  // weights of 10 bits
  }
}

/// A matrix whose columns have the same values but for a factor.
ColumnMoments columns_of(const std::vector<float>& factors, std::int64_t rows) {
  std::vector<float> w;
  for (std::int64_t i = 0; i < rows; ++i) {
    for (const float factor : factors) w.push_back(factor * static_cast<float>(1 + i % 5));
  }
  return moments_of(w, static_cast<std::int64_t>(factors.size()));
}

TEST(ColumnImportance, FallsWithTheSquareOfAColumn) {
  ColumnMoments moments = columns_of({1, 2, 0.5F}, 40);

  const std::vector<float> h = column_importance(moments, 40);
  const std::vector<float> root = column_importance(moments, 40, {.power = 0.5});

  EXPECT_FLOAT_EQ(h[0], 1);
  EXPECT_FLOAT_EQ(h[1], 0.25F);
  EXPECT_FLOAT_EQ(h[2], 4);
  EXPECT_FLOAT_EQ(root[1], 0.5F);
}

TEST(ColumnImportance, IsTheSameForAScaledMatrix) {
  ColumnMoments plain = columns_of({1, 2, 0.5F, 4}, 40);
  ColumnMoments small = columns_of({0x1p-30F, 0x2p-30F, 0.5F * 0x1p-30F, 0x4p-30F}, 40);

  EXPECT_EQ(column_importance(plain, 40), column_importance(small, 40));
}

TEST(ColumnImportance, IsClampedAndOneWithoutEvidence) {
  ColumnMoments wide = columns_of({1, 1, 1, 1, 1e-6F, 1e6F, 0}, 40);
  const std::vector<float> h = column_importance(wide, 40);
  EXPECT_EQ(h[4], 1e2F);
  EXPECT_EQ(h[5], 1e-2F);
  EXPECT_EQ(h[6], 1.0F);

  ColumnMoments few = columns_of({1, 3}, 31);
  EXPECT_EQ(column_importance(few, 31), (std::vector<float>{1, 1}));
}

TEST(ColumnImportance, OfGivenMeasuresKeepsTheirRatios) {
  const std::vector<float> measures = {1, 4, 0.25F, 0, -1, std::nanf("")};

  const std::vector<float> h = importance_of(measures);

  EXPECT_FLOAT_EQ(h[0], 1);
  EXPECT_FLOAT_EQ(h[1], 4);
  EXPECT_FLOAT_EQ(h[2], 0.25F);
  for (std::size_t i = 3; i < 6; ++i) EXPECT_EQ(h[i], 1.0F);
}

TEST(ColumnImportance, IsTheGeometricMeanOverAllColumnsToTheLastBit) {
  std::mt19937_64 random(5);
  std::vector<float> measures;
  for (int i = 0; i < 1000; ++i) measures.push_back(std::exp(std::normal_distribution<float>(0, 1.5F)(random)));

  const std::vector<float> h = importance_of(measures);

  double mean = 0;
  for (const float measure : measures) mean += std::log(double{measure}) / 1000;
  for (std::size_t i = 0; i < 1000; ++i) {
    EXPECT_NEAR(h[i] / std::exp(std::log(double{measures[i]}) - mean), 1, 1e-7);
  }
}

}  // namespace
}  // namespace halfquad
