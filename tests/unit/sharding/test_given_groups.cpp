#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sharding/coded_elements.h"
#include "sharding/given_groups.h"
#include "sharding/stored_grid.h"

namespace halfquad {
namespace {

using ::testing::ElementsAre;

/// Two groups of four weights, by rows or by columns.
std::vector<CodedElement> coded(bool columns, float zero = 3) {
  const std::uint8_t codes[2][4] = {{0, 1, 2, 3}, {7, 6, 5, 4}};
  std::vector<CodedElement> elements(8);
  for (std::int64_t group = 0; group < 2; ++group) {
    const CodedGrid grid(group == 0 ? 0.5F : -2.0F, zero);
    for (std::int64_t k = 0; k < 4; ++k) {
      elements[static_cast<std::size_t>(columns ? k * 2 + group : group * 4 + k)] = {codes[group][k], grid.part(k)};
    }
  }
  return elements;
}

GivenGroups given(const std::vector<CodedElement>& elements, bool columns = false) {
  GivenGroups groups;
  groups.assign(
      {reinterpret_cast<const std::byte*>(elements.data()), DType::kF32, 2, 4, columns ? 1 : 4, columns ? 2 : 1}, 4, 1);
  return groups;
}

TEST(GivenGroups, AreTakenOutOfRowsAndColumns) {
  for (const bool columns : {false, true}) {
    const GivenGroups groups = given(coded(columns), columns);
    EXPECT_THAT(groups.codes, ElementsAre(0, 1, 2, 3, 7, 6, 5, 4));
    EXPECT_THAT(groups.weights, ElementsAre(-1.5F, -1.0F, -0.5F, 0.0F, -8.0F, -6.0F, -4.0F, -2.0F));
    EXPECT_THAT(groups.scale, ElementsAre(0.5F, -2.0F));
    EXPECT_THAT(groups.zero, ElementsAre(3, 3));
    EXPECT_TRUE(groups.finite);
  }
  EXPECT_FALSE(given(coded(false, std::numeric_limits<float>::infinity())).finite);
}

TEST(GivenGroups, KnowTheZeroThatAFormatHas) {
  const GivenGroups whole = given(coded(false));
  EXPECT_EQ(whole.zero_for(0, CodeWidth::k3, ZeroKind::kFloat), 3);
  EXPECT_EQ(whole.zero_for(0, CodeWidth::k3, ZeroKind::kInteger), 3);
  EXPECT_EQ(whole.zero_for(0, CodeWidth::k1, ZeroKind::kInteger), std::nullopt);    // beyond its codes
  EXPECT_EQ(whole.zero_for(0, CodeWidth::k3, ZeroKind::kSymmetric), 4);             // codes 1 to 4
  EXPECT_EQ(whole.zero_for(1, CodeWidth::k3, ZeroKind::kSymmetric), std::nullopt);  // 8 is too large
  EXPECT_EQ(whole.zero_for(1, CodeWidth::k8, ZeroKind::kSymmetric), 128);
  const GivenGroups fraction = given(coded(false, 2.5F));
  EXPECT_EQ(fraction.zero_for(0, CodeWidth::k3, ZeroKind::kFloat), 2.5F);
  EXPECT_EQ(fraction.zero_for(0, CodeWidth::k3, ZeroKind::kInteger), std::nullopt);
  EXPECT_EQ(fraction.zero_for(0, CodeWidth::k8, ZeroKind::kSymmetric), std::nullopt);
  EXPECT_EQ(given(coded(false, -1)).zero_for(0, CodeWidth::k3, ZeroKind::kInteger), std::nullopt);
}

TEST(StoredGridAdopt, KeepsScalesThatASolverWouldNotMake) {
  const float scale[] = {-0.25F, 0x1p-100F, 0.0F};
  const float zero[] = {1, 2, 3};
  StoredGrid grid;
  ASSERT_TRUE(grid.adopt({}, ZeroKind::kFloat, DType::kF32, scale, zero, 3));
  EXPECT_THAT(grid.scale, ElementsAre(-0.25F, 0x1p-100F, 0x1p-24F));
  EXPECT_THAT(grid.zero, ElementsAre(1, 2, 3));
  ASSERT_TRUE(grid.adopt({}, ZeroKind::kFloat, DType::kF16, scale, zero, 3));
  EXPECT_THAT(grid.scale, ElementsAre(-0.25F, 0x1p-24F, 0x1p-24F));
  const float large = 70000;
  EXPECT_FALSE(grid.adopt({}, ZeroKind::kFloat, DType::kF16, &large, zero, 1));
}

TEST(StoredGridAdopt, GivesBackGridsOfItsOwnForm) {
  const GridForm offsets{GridForm::Second::kOffset, 0};
  StoredGrid first;
  const float scale[] = {0.01234F, 1.5F, 0.000321F};
  const float zero[] = {7.3F, -2.25F, 14.9F};
  ASSERT_TRUE(first.assign(offsets, ZeroKind::kFloat, DType::kF16, scale, zero, 3));
  StoredGrid second;
  ASSERT_TRUE(second.adopt(offsets, ZeroKind::kFloat, DType::kF16, first.scale.data(), first.zero.data(), 3));
  EXPECT_EQ(second.scale, first.scale);
  EXPECT_EQ(second.second, first.second);
  EXPECT_EQ(second.zero, first.zero);
}

}  // namespace
}  // namespace halfquad
