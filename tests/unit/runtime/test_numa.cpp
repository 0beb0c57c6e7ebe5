#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/numa.h"

namespace halfquad {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(ParseCpuList, ReadsNumbersAndRanges) {
  EXPECT_THAT(parse_cpu_list("0-3,8,10-11\n"), ElementsAre(0, 1, 2, 3, 8, 10, 11));
  EXPECT_THAT(parse_cpu_list("7"), ElementsAre(7));
}

TEST(ParseCpuList, TakesWhatIsNoListForNone) {
  for (const char* text : {"", "\n", "a", "1-", "-3", "1,,2", "1 2", "0-99999999999", "0-2000000"}) {
    EXPECT_THAT(parse_cpu_list(text), IsEmpty()) << text;
  }
}

TEST(IsNearThisProcess, IsFalseForWhatTheSystemDoesNotKnow) {
  EXPECT_FALSE(is_near_this_process("ffff:ff:1f.7"));
  EXPECT_FALSE(is_near_this_process("../../../../etc"));
  EXPECT_FALSE(is_near_this_process(""));
}

}  // namespace
}  // namespace halfquad
