#include <cstdint>
#include <limits>

#include <gtest/gtest.h>

#include "runtime/checked.h"

namespace halfquad {
namespace {

constexpr auto kMax = std::numeric_limits<std::uint64_t>::max();
constexpr auto kMin64 = std::numeric_limits<std::int64_t>::min();

TEST(Checked, MulGivesTheProductOrNothing) {
  EXPECT_EQ(checked_mul<std::uint64_t>(1ULL << 32U, (1ULL << 32U) - 1), (1ULL << 32U) * ((1ULL << 32U) - 1));
  EXPECT_EQ(checked_mul<std::uint64_t>(1ULL << 32U, 1ULL << 32U), std::nullopt);
  EXPECT_EQ(checked_mul<std::uint64_t>(kMax, 0), 0U);
  EXPECT_EQ(checked_mul<std::int64_t>(kMin64, -1), std::nullopt);
}

TEST(Checked, AddGivesTheSumOrNothing) {
  EXPECT_EQ(checked_add<std::uint64_t>(kMax - 1, 1), kMax);
  EXPECT_EQ(checked_add<std::uint64_t>(kMax, 1), std::nullopt);
  EXPECT_EQ(checked_add<std::int64_t>(kMin64, -1), std::nullopt);
}

TEST(Checked, CastGivesTheValueOrNothing) {
  EXPECT_EQ(checked_cast<std::int32_t>(std::uint64_t{2147483647}), 2147483647);
  EXPECT_EQ(checked_cast<std::int32_t>(std::uint64_t{2147483648}), std::nullopt);
  EXPECT_EQ(checked_cast<std::int32_t>((std::uint64_t{1} << 32U) + 24), std::nullopt);
  EXPECT_EQ(checked_cast<std::uint64_t>(-1), std::nullopt);
}

TEST(Checked, CeilDivRoundsUpWithoutOverflow) {
  EXPECT_EQ(ceil_div(0, 4), 0);
  EXPECT_EQ(ceil_div(8, 4), 2);
  EXPECT_EQ(ceil_div(9, 4), 3);
  EXPECT_EQ(ceil_div<std::uint64_t>(kMax, 2), kMax / 2 + 1);
}

TEST(Checked, RoundUpReachesTheNextMultiple) {
  EXPECT_EQ(round_up(0, 64), 0);
  EXPECT_EQ(round_up(64, 64), 64);
  EXPECT_EQ(round_up(65, 64), 128);
}

}  // namespace
}  // namespace halfquad
