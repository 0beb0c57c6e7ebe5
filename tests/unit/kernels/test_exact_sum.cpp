#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/exact_sum.h"

namespace halfquad {
namespace {

constexpr float kMax = std::numeric_limits<float>::max();
constexpr float kTiny = std::numeric_limits<float>::denorm_min();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

ExactSum sum_of(const std::vector<float>& values) {
  ExactSum sum;
  for (const float value : values) sum.add(value);
  return sum;
}

/// Finite, non-negative, of every exponent.
std::vector<float> any_floats(std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> out;
  while (out.size() < count) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(random()) & 0x7FFF'FFFFU);
    if (std::isfinite(value)) out.push_back(value);
  }
  return out;
}

TEST(ExactSum, IsZeroAtFirst) {
  EXPECT_EQ(ExactSum().value(), 0);
  EXPECT_EQ(ExactSum().mean(5), 0);
}

TEST(ExactSum, HoldsEveryFloatExactly) {
  for (const float value : any_floats(20000, 1)) {
    ExactSum sum;
    sum.add(value);
    ASSERT_EQ(sum.value(), double{value});
    ASSERT_EQ(sum.mean(1), value);
  }
}

TEST(ExactSum, LosesNothingBesideTheLargestFloat) {
  ExactSum sum = sum_of({kMax, kTiny, kTiny, kTiny});

  const auto digits = sum.digits();

  EXPECT_EQ(digits[0], 3U);
  EXPECT_EQ(sum.value(), double{kMax});
}

TEST(ExactSum, DependsOnNoOrder) {
  std::vector<float> values = any_floats(5000, 2);
  const ExactSum forward = sum_of(values);
  std::sort(values.begin(), values.end());

  EXPECT_EQ(sum_of(values), forward);
}

TEST(ExactSum, DependsOnNoPartition) {
  const std::vector<float> values = any_floats(4000, 3);
  ExactSum parts;
  for (std::size_t i = 0; i < values.size(); i += 37) {
    const auto end = std::min(values.size(), i + 37);
    parts.add(
        sum_of({values.begin() + static_cast<std::ptrdiff_t>(i), values.begin() + static_cast<std::ptrdiff_t>(end)}));
  }

  EXPECT_EQ(parts, sum_of(values));
}

TEST(ExactSum, AddsItselfToItself) {
  ExactSum sum = sum_of({1.5F, kTiny});

  sum.add(sum);

  EXPECT_EQ(sum, sum_of({1.5F, kTiny, kTiny, 1.5F}));
}

TEST(ExactSum, AddsADoubleAsItsFloats) {
  std::mt19937_64 random(4);
  for (int i = 0; i < 20000; ++i) {
    // Two floats whose sum is exact in double: 24 bits each, at most 29 binary digits apart.
    const float high = std::ldexp(1.0F + static_cast<float>(random() % (1U << 23U)) * 0x1p-23F,
                                  static_cast<int>(random() % 240) - 115);
    const float low = std::ldexp(high, -static_cast<int>(random() % 29));
    const double both = double{high} + double{low};
    ASSERT_EQ(both - double{high}, double{low});
    ExactSum as_double;
    as_double.add(both);

    ASSERT_EQ(as_double, sum_of({high, low})) << both;
  }
}

TEST(ExactSum, AddsTheExtremesOfDoubles) {
  ExactSum sum;
  sum.add(0.0);
  sum.add(double{kTiny});
  sum.add(double{kMax});
  sum.add(0x1.fffffffffffffp+127);

  ExactSum want = sum_of({kTiny, kMax});
  want.add(0x1.fffffffffffffp+127);
  EXPECT_EQ(sum, want);
  EXPECT_EQ(sum.digits()[0], 1U);
  EXPECT_EQ(sum.value(), 0x1.fffffffffffffp+127 + double{kMax});
}

TEST(ExactSum, RoundsTheValueOnceToNearestEven) {
  // 2^53 + 1 lies between two doubles: even wins; with anything more below, the upper one.
  const float big = 0x1p53F;
  ExactSum tie = sum_of({big, 1.0F});
  ExactSum above = sum_of({big, 1.0F, 0x1p-100F});
  ExactSum odd_tie = sum_of({big, 2.0F, 1.0F});

  EXPECT_EQ(tie.value(), 0x1p53);
  EXPECT_EQ(above.value(), 0x1p53 + 2);
  EXPECT_EQ(odd_tie.value(), 0x1p53 + 4);
}

TEST(ExactSum, MeanIsTheQuotientRoundedToFloat) {
  const ExactSum sum = sum_of({1.0F, 2.0F, 4.0F});

  EXPECT_EQ(sum.mean(3), static_cast<float>(7.0 / 3.0));
  EXPECT_EQ(sum_of({kTiny, kTiny, kTiny}).mean(2), 2 * kTiny);
  EXPECT_EQ(sum_of(std::vector<float>(7, kMax)).mean(7), kMax);
}

TEST(ExactSum, DigitsAreCarried) {
  ExactSum sum;
  for (int i = 0; i < 100; ++i) sum.add(0x1.fffffep-118F);

  for (const std::uint64_t digit : sum.digits()) EXPECT_LT(digit, std::uint64_t{1} << 32U);
  EXPECT_EQ(sum.value(), 100 * 0x1.fffffep-118);
}

TEST(ExactSum, IsThatOfItsDigits) {
  ExactSum sum = sum_of(any_floats(3000, 5));
  ExactSum copy = ExactSum::from_digits(sum.digits());
  EXPECT_EQ(copy, sum);
  EXPECT_EQ(copy.value(), sum.value());

  for (const float value : any_floats(3000, 6)) {
    sum.add(value);
    copy.add(value);
  }
  EXPECT_EQ(copy, sum);
  EXPECT_EQ(ExactSum::from_digits({}), ExactSum());
}

TEST(FiniteOrMax, ReplacesOnlyWhatIsNotFinite) {
  EXPECT_EQ(finite_or_max(1.25F), 1.25F);
  EXPECT_EQ(finite_or_max(kMax), kMax);
  EXPECT_EQ(finite_or_max(std::numeric_limits<float>::infinity()), kMax);
  EXPECT_EQ(finite_or_max(kNan), kMax);
}

TEST(EarlyStop, StopsAtTheFirstMeanThatIsNotSmaller) {
  EarlyStop stop;

  EXPECT_FALSE(stop.stops(3));
  EXPECT_FALSE(stop.stops(2));
  EXPECT_TRUE(stop.stops(2));
}

TEST(EarlyStop, ComparesWithTheSmallestSoFar) {
  EarlyStop stop;

  EXPECT_FALSE(stop.stops(1));
  EXPECT_TRUE(stop.stops(2));
  EXPECT_TRUE(stop.stops(1.5F));
}

TEST(EarlyStop, StopsAtNan) { EXPECT_TRUE(EarlyStop().stops(kNan)); }

}  // namespace
}  // namespace halfquad
