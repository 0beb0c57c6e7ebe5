#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "sharding/value_histogram.h"

namespace halfquad {
namespace {

constexpr std::int64_t kBins = 8;

ValueHistogram of(const std::vector<float>& values) {
  ValueHistogram histogram;
  histogram.add(values);
  return histogram;
}

std::uint64_t shown(const ValueHistogram::View& view) {
  return std::accumulate(view.counts.begin(), view.counts.end(), view.below + view.above);
}

TEST(ValueHistogram, CountsIntoHalfOpenBinsAroundZero) {
  const ValueHistogram histogram = of({-1.0F, -0.25F, 0.0F, 0.2F, 0.25F, 0.9F});

  const ValueHistogram::View view = histogram.view(-2, kBins);

  EXPECT_EQ(view.low, -1.0);
  EXPECT_EQ(view.width, 0.25);
  EXPECT_EQ(view.counts, (std::vector<std::uint64_t>{1, 0, 0, 1, 2, 1, 0, 1}));
  EXPECT_EQ(view.below + view.above, 0U);
}

TEST(ValueHistogram, CountsWhatLiesOutsideOfAView) {
  const ValueHistogram::View view = of({-3.0F, -0.1F, 0.1F, 5.0F, 7.0F}).view(-2, kBins);

  EXPECT_EQ(view.below, 1U);
  EXPECT_EQ(view.above, 2U);
  EXPECT_EQ(shown(view), 5U);
}

TEST(ValueHistogram, IsTheSameInAnyOrderAndInParts) {
  std::vector<float> values;
  for (int i = 0; i < 1000; ++i) values.push_back(std::ldexp(std::sin(static_cast<float>(i)), i % 23 - 11));
  const ValueHistogram whole = of(values);

  ValueHistogram parts;
  for (std::size_t begin = values.size(); begin > 0; begin -= 10) {
    parts.add(of({values.begin() + static_cast<std::ptrdiff_t>(begin - 10),
                  values.begin() + static_cast<std::ptrdiff_t>(begin)}));
  }
  ValueHistogram one_by_one;
  for (const float& value : values) one_by_one.add({&value, 1});

  const int exponent = whole.view_exponent(64);
  EXPECT_EQ(whole.exponent(), parts.exponent());
  EXPECT_EQ(whole.exponent(), one_by_one.exponent());
  EXPECT_EQ(whole.view(exponent, 64), parts.view(exponent, 64));
  EXPECT_EQ(whole.view(exponent, 64), one_by_one.view(exponent, 64));
  EXPECT_EQ(shown(whole.view(exponent, 64)), 1000U);
}

TEST(ValueHistogram, ViewLeavesOutOneInAThousand) {
  std::vector<float> values(10'000, 0.9F);
  values[17] = 500.0F;
  const ValueHistogram histogram = of(values);

  const int exponent = histogram.view_exponent(kBins);
  const ValueHistogram::View view = histogram.view(exponent, kBins);

  EXPECT_EQ(view.above, 1U);
  EXPECT_GE(-view.low, 0.9);
  EXPECT_LE(-view.low, 2.0);
}

TEST(ValueHistogram, HoldsEveryFiniteNumber) {
  const float most = std::numeric_limits<float>::max();
  const float least = std::numeric_limits<float>::denorm_min();
  const ValueHistogram histogram = of({most, -most, least, -least, 0.0F});

  const ValueHistogram::View view = histogram.view(histogram.view_exponent(kBins), kBins);

  EXPECT_EQ(shown(view), 5U);
  EXPECT_EQ(view.below + view.above, 0U);
  EXPECT_EQ(shown(of({least, -least}).view(-149, kBins)), 2U);
}

TEST(ValueHistogram, OfZerosOrNothingIsShownAtZero) {
  const ValueHistogram zeros = of({0.0F, 0.0F, -0.0F});

  const ValueHistogram::View view = zeros.view(zeros.view_exponent(kBins), kBins);

  EXPECT_EQ(view.counts[kBins / 2], 3U);
  EXPECT_EQ(shown(ValueHistogram().view(ValueHistogram().view_exponent(kBins), kBins)), 0U);
}

}  // namespace
}  // namespace halfquad
