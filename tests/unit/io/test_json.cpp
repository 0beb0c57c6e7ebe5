#include <cmath>
#include <limits>
#include <string>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <gtest/gtest.h>

#include "io/json.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

using test::expect_error;

struct Defect {
  const char* name;
  std::string text;
  const char* reason;
};

class ParseJson : public ::testing::TestWithParam<Defect> {};

TEST_P(ParseJson, RefusesWithReasonAndOffset) {
  const Defect& defect = GetParam();

  expect_error(ErrorCode::kBadInput, {"some file: ", defect.reason, " at byte "},
               [&] { static_cast<void>(parse_json(defect.text, "some file")); });
}

std::string nested(int depth) {
  return std::string(static_cast<std::size_t>(depth), '[') + std::string(static_cast<std::size_t>(depth), ']');
}

INSTANTIATE_TEST_SUITE_P(
    Defects, ParseJson,
    ::testing::Values(
        Defect{"empty", "", "ends early at byte 0"}, Defect{"cut", R"({"a": [1, 2)", "ends early at byte 11"},
        Defect{"duplicate", R"({"a":1,"b":2,"a":3})", "duplicate key \"a\" at byte 15"},
        Defect{"escaped_duplicate", R"({"ab":1,"a\u0062":3})", "duplicate key \"ab\""},
        Defect{"inner_duplicate", R"([{"x":{"k":1,"k":1}}])", "duplicate key \"k\""},
        Defect{"nul_in_key", R"({"a\u0000b":1})", "NUL in the key"},
        Defect{"control_in_key", "{\"a\nb\":1}", "malformed JSON"},
        Defect{"bad_utf8", "{\"\xff\":1}", "malformed JSON"},
        Defect{"bad_utf8_value", "[\"\xc3\x28\"]", "malformed JSON"},
        Defect{"lone_surrogate", R"(["\ud800"])", "malformed JSON"},
        Defect{"trailing_text", R"({"a":1} x)", "text after the end of the JSON value at byte 8"},
        Defect{"trailing_nul", std::string("{}\0", 3), "text after the end of the JSON value at byte 2"},
        Defect{"too_deep", nested(65), "nested deeper than 64 levels"}, Defect{"comment", "{/* */}", "malformed JSON"},
        Defect{"trailing_comma", "[1,]", "malformed JSON"}, Defect{"not_a_number", "[NaN]", "malformed JSON"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(ParseJsonValue, ReadsWhatIsWellFormed) {
  const auto value = parse_json(" {\"a\": [1, -2, 3.5, true, null, \"\\u00e9\"], \"b\": {\"a\": {}}} \n", "x");

  EXPECT_EQ(value.at("a").as_array().size(), 6U);
  EXPECT_EQ(value.at("a").at(5).as_string(), "\xc3\xa9");
  EXPECT_TRUE(value.at("b").at("a").as_object().empty());
}

TEST(ParseJsonValue, RoundsDecimalNumbersExactly) {
  const auto value =
      parse_json("[1e-05, 1e-06, 1e-12, 0.1, 1.8446744070723954e+21, 2.2250738585072014e-308, 1e999]", "x");

  EXPECT_EQ(value.at(0).as_double(), 1e-05);
  EXPECT_EQ(value.at(1).as_double(), 1e-06);
  EXPECT_EQ(value.at(2).as_double(), 1e-12);
  EXPECT_EQ(value.at(3).as_double(), 0.1);
  EXPECT_EQ(value.at(4).as_double(), 1.8446744070723954e+21);
  EXPECT_EQ(value.at(5).as_double(), 2.2250738585072014e-308);
  EXPECT_EQ(value.at(6).as_double(), std::numeric_limits<double>::infinity());
}

TEST(ParseJsonValue, AllowsTheSameKeyInDifferentObjects) {
  EXPECT_NO_THROW(static_cast<void>(parse_json(R"([{"a":1},{"a":{"a":2}}])", "x")));
}

TEST(ParseJsonValue, AllowsSixtyFourLevels) { EXPECT_NO_THROW(static_cast<void>(parse_json(nested(64), "x"))); }

TEST(PrettyJson, IndentsAndKeepsTheOrderOfKeys) {
  const auto value = parse_json(R"({"z":1,"a":[true,"x\ny"],"e":{},"f":[]})", "x");

  EXPECT_EQ(pretty_json(value),
            "{\n  \"z\": 1,\n  \"a\": [\n    true,\n    \"x\\ny\"\n  ],\n  \"e\": {},\n  \"f\": []\n}\n");
}

TEST(PrettyJson, KeepsFloatsFloatsAndExact) {
  const auto value = parse_json("[8.0, 0.1, 1e-05, 1e300, -0.0, 500000.0, 3]", "x");

  const std::string text = pretty_json(value);

  EXPECT_NE(text.find("  8.0,"), std::string::npos) << text;
  EXPECT_NE(text.find("  0.1,"), std::string::npos) << text;
  EXPECT_NE(text.find("  500000.0,"), std::string::npos) << text;
  EXPECT_NE(text.find("  3\n"), std::string::npos) << text;
  EXPECT_EQ(parse_json(text, "again"), value);
}

TEST(PrettyJson, WritesWhatJsonLacksSoThatItParses) {
  const double infinity = std::numeric_limits<double>::infinity();
  const boost::json::value value = boost::json::array{std::nan(""), infinity, -infinity};

  const auto again = parse_json(pretty_json(value), "again");

  EXPECT_TRUE(again.at(0).is_null());
  EXPECT_EQ(again.at(1).as_double(), infinity);
  EXPECT_EQ(again.at(2).as_double(), -infinity);
}

}  // namespace
}  // namespace halfquad
