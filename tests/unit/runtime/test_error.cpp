#include <string_view>

#include <gmock/gmock.h>

#include "runtime/check.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

using test::error_of;
using testing::HasSubstr;

TEST(Require, PassesWithoutBuildingTheMessage) {
  int built = 0;

  HALFQUAD_REQUIRE(true, kInternal, std::to_string(++built));

  EXPECT_EQ(built, 0);
}

TEST(Require, ThrowsCodeMessageAndPlace) {
  const Error error = error_of([] { HALFQUAD_REQUIRE(1 == 2, kMismatch, "tensor \"a\" differs"); });

  EXPECT_EQ(error.code(), ErrorCode::kMismatch);
  EXPECT_STREQ(error.what(), "tensor \"a\" differs");
  EXPECT_THAT(error.where().file_name(), HasSubstr("test_error.cpp"));
}

TEST(Require, AlwaysRunsItsCondition) {
  int runs = 0;

  HALFQUAD_REQUIRE(++runs > 0, kInternal, "unreached");

  EXPECT_EQ(runs, 1);
}

}  // namespace
}  // namespace halfquad
