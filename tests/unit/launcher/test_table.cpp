#include <gtest/gtest.h>

#include "launcher/summary.h"
#include "launcher/table.h"
#include "runtime/error.h"

namespace halfquad {
namespace {

TEST(Table, AlignsColumnsWithoutTrailingSpaces) {
  Table table("lr", {"name", "n"});
  table.add_row({"a", "12345"});
  table.add_row({"long name", "6"});

  EXPECT_EQ(table.text(2), "  name           n\n  a          12345\n  long name      6\n");
}

TEST(Table, HasNoTitleWithoutHeaders) {
  Table table("ll", {});
  table.add_row({"a", ""});

  EXPECT_EQ(table.text(0), "a\n");
}

TEST(Table, RefusesARowOfTheWrongLength) {
  Table table("ll", {});

  EXPECT_THROW(table.add_row({"only one"}), Error);
}

TEST(HumanCount, UsesPowersOfAThousand) {
  EXPECT_EQ(human_count(999'999), "999999");
  EXPECT_EQ(human_count(2'500'000), "2.50 M");
  EXPECT_EQ(human_count(6'480'000'000), "6.48 G");
}

}  // namespace
}  // namespace halfquad
