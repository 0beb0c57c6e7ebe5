#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/error.h"
#include "sharding/rules.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::string checked_message(const Error& error, ErrorCode code) {
  EXPECT_EQ(error.code(), code);
  return error.what();
}

std::string rule_error(std::string_view text) {
  return checked_message(test::error_of([&] { (void)parse_rule(text); }), ErrorCode::kUsage);
}

std::string recipe_error(std::string_view json) {
  return checked_message(test::error_of([&] { (void)parse_recipe(json, "my.json"); }), ErrorCode::kBadInput);
}

TEST(ParseRule, ReadsEveryKey) {
  const Rule rule =
      parse_rule("down_proj=bits:1.58,group-size:32,axis:0,solver:rtn,iters:10,round-zero:off,per-tensor:on,keep:off");

  EXPECT_EQ(rule.pattern, "down_proj");
  EXPECT_EQ(rule.spec.width, CodeWidth::k1_58);
  EXPECT_EQ(rule.spec.group_size, 32);
  EXPECT_EQ(rule.spec.axis, 0);
  EXPECT_EQ(rule.spec.solver, SolverKind::kRtn);
  EXPECT_EQ(rule.spec.iters, 10);
  EXPECT_EQ(rule.spec.round_zero, false);
  EXPECT_EQ(rule.spec.channel_wise, false);
  EXPECT_EQ(rule.spec.keep, false);
}

TEST(ParseRule, ReadsWhatAlsTakes) {
  const Rule rule = parse_rule("x=solver:als,starts:9,importance:none,iters:6");
  QuantSpec spec;
  rule.spec.apply_to(spec);

  EXPECT_EQ(spec.solver, SolverKind::kAls);
  EXPECT_EQ(spec.starts, 9);
  EXPECT_EQ(spec.rounds, 6);
  EXPECT_EQ(spec.importance, Importance::kNone);
  EXPECT_FALSE(spec.weighted());
  spec.importance = Importance::kWeights;
  EXPECT_TRUE(spec.weighted());
}

TEST(ParseRule, ATypeIsAllItStandsFor) {
  QuantSpec spec;
  parse_rule("x=type:q6_k").spec.apply_to(spec);
  EXPECT_EQ(spec.width, CodeWidth::k6);
  EXPECT_EQ(spec.zeros, ZeroKind::kSymmetric);
  EXPECT_EQ(spec.group_size, 16);
  EXPECT_TRUE(spec.super_blocks);
  EXPECT_FALSE(spec.optimizes());
  parse_rule("x=bits:4").spec.apply_to(spec);
  EXPECT_FALSE(spec.super_blocks);
  EXPECT_EQ(spec.zeros, ZeroKind::kFloat);
}

TEST(ParseRule, SplitsAtTheLastEqualsSign) {
  const Rule rule = parse_rule("(?=a)x=keep:on");

  EXPECT_EQ(rule.pattern, "(?=a)x");
  EXPECT_EQ(rule.spec.keep, true);
  EXPECT_FALSE(rule.spec.width.has_value());
}

TEST(ParseRule, TakesRowAndZeroAsWholeRows) {
  EXPECT_EQ(parse_rule("x=group-size:row").spec.group_size, 0);
  EXPECT_EQ(parse_rule("x=group-size:0").spec.group_size, 0);
}

TEST(ParseRule, NamesWhatIsWrong) {
  EXPECT_THAT(rule_error("down_proj"), HasSubstr("not of the form REGEX=key:value"));
  EXPECT_THAT(rule_error("=bits:3"), HasSubstr("not of the form REGEX=key:value"));
  EXPECT_THAT(rule_error("x="), HasSubstr("not of the form REGEX=key:value"));
  EXPECT_THAT(rule_error("x=bits"), AllOf(HasSubstr("\"bits\""), HasSubstr("key:value")));
  EXPECT_THAT(rule_error("x=bits:3,"), HasSubstr("\"\" is not of the form key:value"));
  EXPECT_THAT(rule_error("x=bit:3"), AllOf(HasSubstr("unknown key \"bit\""), HasSubstr("group-size")));
  EXPECT_THAT(rule_error("x=group_size:3"), HasSubstr("unknown key \"group_size\""));
  EXPECT_THAT(rule_error("x=bits:3,bits:4"), HasSubstr("\"bits\" is given twice"));
  EXPECT_THAT(rule_error("x=bits:7"), AllOf(HasSubstr("bits must be one of 8 6 5 4 3 2 1.58 1"), HasSubstr("\"7\"")));
  EXPECT_THAT(rule_error("x=group-size:-8"), HasSubstr("group-size must be a positive number"));
  EXPECT_THAT(rule_error("x=group-size:64x"), HasSubstr("\"64x\""));
  EXPECT_THAT(rule_error("x=axis:2"), HasSubstr("axis must be 0 or 1"));
  EXPECT_THAT(rule_error("x=solver:gptq"), HasSubstr("solver must be hqq, als or rtn"));
  EXPECT_THAT(rule_error("x=starts:42"), HasSubstr("starts must be 1 to 41"));
  EXPECT_THAT(rule_error("x=importance:data"), HasSubstr("importance must be none, weights or file"));
  EXPECT_THAT(rule_error("x=type:Q7_K"), AllOf(HasSubstr("type must be one of Q4_0"), HasSubstr("Q6_K")));
  EXPECT_THAT(rule_error("x=iters:0"), HasSubstr("iters must be 1 to 1000"));
  EXPECT_THAT(rule_error("x=iters:1001"), HasSubstr("iters must be 1 to 1000"));
  EXPECT_THAT(rule_error("x=round-zero:yes"), HasSubstr("round-zero must be on or off"));
  EXPECT_THAT(rule_error("x=per-tensor:1"), HasSubstr("per-tensor must be on or off"));
  EXPECT_THAT(rule_error("x=keep:"), HasSubstr("keep must be on or off"));
}

TEST(ParseRule, EscapesWhatItQuotes) { EXPECT_THAT(rule_error("x=\x1b[31m:3"), HasSubstr("\\x1b[31m")); }

TEST(ParseRecipe, ReadsDefaultsRulesAndSkips) {
  const Recipe recipe = parse_recipe(
      R"({"bits": 4, "group_size": "row", "axis": 1, "solver": "hqq", "iters": 5, "round_zero": true,
          "per_tensor": false,
          "rules": [{"match": "down", "bits": 1.58}, {"match": "up", "bits": "3", "keep": true}],
          "skip": ["a", "b"]})",
      "my.json");

  EXPECT_EQ(recipe.defaults.width, CodeWidth::k4);
  EXPECT_EQ(recipe.defaults.group_size, 0);
  EXPECT_EQ(recipe.defaults.axis, 1);
  EXPECT_EQ(recipe.defaults.solver, SolverKind::kHqq);
  EXPECT_EQ(recipe.defaults.iters, 5);
  EXPECT_EQ(recipe.defaults.round_zero, true);
  EXPECT_EQ(recipe.defaults.channel_wise, true);
  ASSERT_EQ(recipe.rules.size(), 2U);
  EXPECT_EQ(recipe.rules[0].pattern, "down");
  EXPECT_EQ(recipe.rules[0].spec.width, CodeWidth::k1_58);
  EXPECT_EQ(recipe.rules[1].spec.width, CodeWidth::k3);
  EXPECT_EQ(recipe.rules[1].spec.keep, true);
  EXPECT_THAT(recipe.skip, ElementsAre("a", "b"));
}

TEST(ParseRecipe, NamesFileAndDefect) {
  EXPECT_THAT(recipe_error("{"), HasSubstr("my.json"));
  EXPECT_THAT(recipe_error("[]"), AllOf(HasSubstr("\"my.json\""), HasSubstr("must be a JSON object")));
  EXPECT_THAT(recipe_error(R"({"bit": 4})"), AllOf(HasSubstr("unknown key \"bit\""), HasSubstr("rules, skip")));
  EXPECT_THAT(recipe_error(R"({"group-size": 4})"), HasSubstr("unknown key \"group-size\""));
  EXPECT_THAT(recipe_error(R"({"bits": 7})"), AllOf(HasSubstr("\"bits\" must be one of 8 6"), HasSubstr("\"7\"")));
  EXPECT_THAT(recipe_error(R"({"bits": null})"), HasSubstr("\"null\""));
  EXPECT_THAT(recipe_error(R"({"group_size": 1.5})"), HasSubstr("positive number"));
  EXPECT_THAT(recipe_error(R"({"keep": 1})"), HasSubstr("on or off"));
  EXPECT_THAT(recipe_error(R"({"rules": {}})"), HasSubstr("\"rules\" must be an array"));
  EXPECT_THAT(recipe_error(R"({"rules": [3]})"), HasSubstr("rules[0] must be an object"));
  EXPECT_THAT(recipe_error(R"({"rules": [{"bits": 3}]})"), HasSubstr("rules[0] lacks \"match\""));
  EXPECT_THAT(recipe_error(R"({"rules": [{"match": "x"}]})"), HasSubstr("rules[0] sets nothing"));
  EXPECT_THAT(recipe_error(R"({"rules": [{"match": 3, "bits": 3}]})"), HasSubstr("rules[0]: \"match\" must be a"));
  EXPECT_THAT(recipe_error(R"({"rules": [{"match": "x", "skip": []}]})"),
              AllOf(HasSubstr("rules[0] has the unknown key \"skip\""), HasSubstr("keep, match")));
  EXPECT_THAT(recipe_error(R"({"skip": "x"})"), HasSubstr("\"skip\" must be an array"));
  EXPECT_THAT(recipe_error(R"({"skip": [""]})"), HasSubstr("skip[0] must be a regular expression"));
}

TEST(SpecOverride, LeavesWhatItDoesNotSet) {
  QuantSpec spec;
  SpecOverride change;
  change.group_size = 128;

  change.apply_to(spec);

  QuantSpec wanted;
  wanted.group_size = 128;
  EXPECT_EQ(spec, wanted);
}

}  // namespace
}  // namespace halfquad
