#include <set>
#include <string_view>

#include <gtest/gtest.h>

#include "runtime/dtype.h"

namespace halfquad {
namespace {

constexpr int kDTypes = static_cast<int>(DType::kU64) + 1;

TEST(DType, EveryNameLeadsBackToItsType) {
  std::set<std::string_view> names;
  for (int i = 0; i < kDTypes; ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtype_from_name(name_of(dtype)), dtype) << name_of(dtype);
    names.insert(name_of(dtype));
  }

  EXPECT_EQ(names.size(), static_cast<std::size_t>(kDTypes));
}

TEST(DType, UsesTheFormatsNames) {
  EXPECT_EQ(name_of(DType::kBF16), "BF16");
  EXPECT_EQ(name_of(DType::kF8E4M3), "F8_E4M3");
  EXPECT_EQ(name_of(DType::kF8E5M2Fnuz), "F8_E5M2FNUZ");
  EXPECT_EQ(name_of(DType::kF6E3M2), "F6_E3M2");
}

TEST(DType, RefusesUnknownNames) {
  for (const std::string_view name : {"", "f32", "F32 ", "BF", "FLOAT", "F128"}) {
    EXPECT_EQ(dtype_from_name(name), std::nullopt) << name;
  }
}

TEST(DType, KnowsWidths) {
  EXPECT_EQ(bits_of(DType::kF4), 4);
  EXPECT_EQ(bits_of(DType::kF6E2M3), 6);
  EXPECT_EQ(bytes_of(DType::kBool), 1);
  EXPECT_EQ(bytes_of(DType::kF8E8M0), 1);
  EXPECT_EQ(bytes_of(DType::kF16), 2);
  EXPECT_EQ(bytes_of(DType::kF32), 4);
  EXPECT_EQ(bytes_of(DType::kC64), 8);
  EXPECT_EQ(bytes_of(DType::kU64), 8);
}

TEST(DType, ValuesFollowTheAlignmentOrder) {
  // The file order of a writer that sorts by descending value: widths of whole bytes never grow again.
  for (int i = static_cast<int>(DType::kU8) + 1; i < kDTypes; ++i) {
    EXPECT_GE(bits_of(static_cast<DType>(i)), bits_of(static_cast<DType>(i - 1))) << name_of(static_cast<DType>(i));
  }
}

TEST(DType, FourTypesAreFloatSources) {
  int sources = 0;
  for (int i = 0; i < kDTypes; ++i) sources += is_float_source(static_cast<DType>(i)) ? 1 : 0;

  EXPECT_EQ(sources, 4);
  EXPECT_TRUE(is_float_source(DType::kBF16));
  EXPECT_TRUE(is_float_source(DType::kF64));
  EXPECT_FALSE(is_float_source(DType::kF8E4M3));
}

}  // namespace
}  // namespace halfquad
