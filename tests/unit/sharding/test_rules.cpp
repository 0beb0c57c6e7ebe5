#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "header_checkpoint.h"
#include "runtime/error.h"
#include "sharding/rules.h"

namespace halfquad {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const std::string kUpProj = "model.layers.0.mlp.up_proj.weight";

/// The recipe most tests start from: 4 bit, groups of 32, which fit the small shapes.
Recipe base_recipe() {
  Recipe recipe;
  recipe.defaults.group_size = 32;
  return recipe;
}

Recipe with_rules(const std::vector<std::string>& rules) {
  Recipe recipe = base_recipe();
  for (const std::string& rule : rules) recipe.rules.push_back(parse_rule(rule));
  return recipe;
}

Decision decision_of(const Checkpoint& checkpoint, const Recipe& recipe, std::string_view name) {
  for (const Decision& decision : decide(checkpoint, recipe)) {
    if (checkpoint.tensors()[decision.source].name == name) return decision;
  }
  ADD_FAILURE() << "no tensor " << name;
  return {};
}

std::string decide_error(const Checkpoint& checkpoint, const Recipe& recipe, ErrorCode code = ErrorCode::kUsage) {
  try {
    (void)decide(checkpoint, recipe);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  return {};
}

TEST(Decide, QuantizesTheLinearLayersInOrderOfTheCheckpoint) {
  const HeaderCheckpoint checkpoint(llama_tensors());

  const std::vector<Decision> decisions = decide(*checkpoint, base_recipe());

  ASSERT_EQ(decisions.size(), checkpoint->tensors().size());
  std::size_t quantized = 0;
  for (std::size_t i = 0; i < decisions.size(); ++i) {
    EXPECT_EQ(decisions[i].source, i);
    if (decisions[i].quantize()) ++quantized;
  }
  EXPECT_EQ(quantized, 14U);
}

TEST(Decide, RoundsZeroForFourBitsUnlessToldOtherwise) {
  const HeaderCheckpoint checkpoint(llama_tensors());

  EXPECT_TRUE(decision_of(*checkpoint, base_recipe(), kUpProj).spec.round_zero);
  EXPECT_FALSE(decision_of(*checkpoint, with_rules({"up_proj=bits:3"}), kUpProj).spec.round_zero);
  EXPECT_TRUE(decision_of(*checkpoint, with_rules({"up_proj=bits:3,round-zero:on"}), kUpProj).spec.round_zero);
  EXPECT_FALSE(decision_of(*checkpoint, with_rules({"up_proj=round-zero:off"}), kUpProj).spec.round_zero);
}

TEST(Decide, LaterRulesOverrideEarlierOnes) {
  const HeaderCheckpoint checkpoint(llama_tensors());
  const Recipe recipe = with_rules({"_proj=bits:3,iters:7", "layers\\.0\\.=keep:on", "up_proj=bits:2"});

  const Decision up = decision_of(*checkpoint, recipe, kUpProj);
  const Decision other = decision_of(*checkpoint, recipe, "model.layers.0.mlp.down_proj.weight");
  const Decision second = decision_of(*checkpoint, recipe, "model.layers.1.mlp.down_proj.weight");

  EXPECT_TRUE(up.quantize());
  EXPECT_EQ(up.spec.width, CodeWidth::k2);
  EXPECT_EQ(up.spec.iters, 7);
  EXPECT_EQ(other.keep, KeepReason::kSkipped);
  EXPECT_EQ(other.why, "layers\\.0\\.");
  EXPECT_EQ(second.spec.width, CodeWidth::k3);
}

TEST(Decide, SkipPatternsWinOverRules) {
  const HeaderCheckpoint checkpoint(llama_tensors());
  Recipe recipe = with_rules({"up_proj=bits:2"});
  recipe.skip = {"layers.0.*up"};

  const Decision decision = decision_of(*checkpoint, recipe, kUpProj);

  EXPECT_EQ(decision.keep, KeepReason::kSkipped);
  EXPECT_EQ(decision.why, "layers.0.*up");
}

TEST(Decide, SkipLeavesTheReasonOfWhatIsKeptAnyway) {
  const HeaderCheckpoint checkpoint(llama_tensors());
  Recipe recipe = base_recipe();
  recipe.skip = {"lm_head"};

  EXPECT_EQ(decision_of(*checkpoint, recipe, "lm_head.weight").keep, KeepReason::kHead);
}

TEST(Decide, RuleQuantizesWhatIsKeptByDefault) {
  const HeaderCheckpoint checkpoint(llama_tensors());

  const Decision decision = decision_of(*checkpoint, with_rules({"^lm_head=bits:8"}), "lm_head.weight");

  EXPECT_TRUE(decision.quantize());
  EXPECT_EQ(decision.spec.width, CodeWidth::k8);
}

TEST(Decide, KeepByDefaultQuantizesOnlyWhatRulesName) {
  const HeaderCheckpoint checkpoint(llama_tensors());
  Recipe recipe = with_rules({"down_proj=bits:4"});
  recipe.defaults.keep = true;

  EXPECT_EQ(decision_of(*checkpoint, recipe, kUpProj).keep, KeepReason::kSkipped);
  EXPECT_TRUE(decision_of(*checkpoint, recipe, "model.layers.0.mlp.down_proj.weight").quantize());
}

TEST(Decide, KeepsShapesTheSpecDoesNotFitAndSaysHow) {
  std::vector<FakeTensor> tensors = llama_tensors();
  tensors.push_back({"model.layers.1.odd.weight", {13, 96}});
  const HeaderCheckpoint checkpoint(tensors);

  const Decision decision = decision_of(*checkpoint, base_recipe(), "model.layers.1.odd.weight");

  EXPECT_EQ(decision.keep, KeepReason::kShape);
  EXPECT_THAT(decision.why, HasSubstr("39"));
}

TEST(Decide, ShowsThatFusedExpertsAreKept) {
  std::vector<FakeTensor> tensors = llama_tensors();
  tensors.push_back({"model.layers.1.mlp.experts.gate_up_proj", {8, 64, 64}});
  const HeaderCheckpoint checkpoint(tensors);

  const Decision decision = decision_of(*checkpoint, base_recipe(), "model.layers.1.mlp.experts.gate_up_proj");

  EXPECT_EQ(decision.keep, KeepReason::kNotAWeight);
  EXPECT_EQ(decision.why, "3-D tensor");
}

TEST(Decide, RefusesPatternsThatMatchNothing) {
  const HeaderCheckpoint checkpoint(llama_tensors());
  Recipe skip = base_recipe();
  skip.skip = {"no_such"};

  EXPECT_THAT(decide_error(*checkpoint, with_rules({"q_prj=bits:3"})),
              AllOf(HasSubstr("rule \"q_prj\" matches none of the 21 tensors"),
                    HasSubstr("\"model.layers.0.mlp.down_proj.weight\"")));
  EXPECT_THAT(decide_error(*checkpoint, skip), HasSubstr("skip pattern \"no_such\" matches none"));
}

TEST(Decide, RefusesRulesForWhatCannotBeQuantized) {
  const HeaderCheckpoint checkpoint(llama_tensors());

  EXPECT_THAT(decide_error(*checkpoint, with_rules({"norm=bits:8"})),
              AllOf(HasSubstr("rule \"norm\" matches 5 tensors"), HasSubstr("none that can be quantized")));
  EXPECT_EQ(decide_error(*checkpoint, with_rules({"norm=keep:on"})), "");
}

TEST(Decide, RefusesBadPatterns) {
  const HeaderCheckpoint checkpoint(llama_tensors());

  EXPECT_THAT(decide_error(*checkpoint, with_rules({"(=bits:3"})),
              HasSubstr("rule \"(\" is not a valid regular expression"));
}

TEST(Decide, RefusesPatternsThatExplode) {
  std::vector<FakeTensor> tensors = llama_tensors();
  tensors.push_back({std::string(60, 'a') + ".weight", {64, 64}});
  const HeaderCheckpoint checkpoint(tensors);

  EXPECT_THAT(decide_error(*checkpoint, with_rules({"(a*)*(a*)*(a*)*(a*)*b$=bits:3"})),
              HasSubstr("takes too long to match"));
}

TEST(Decide, RefusesToQuantizeNothingAndCountsWhy) {
  const HeaderCheckpoint checkpoint({{"lm_head.weight", {64, 64}}, {"a.norm.weight", {64}}, {"b.norm.weight", {64}}});
  const HeaderCheckpoint odd({{"model.layers.0.up.weight", {13, 96}}});

  EXPECT_THAT(decide_error(*checkpoint, base_recipe()), AllOf(HasSubstr("nothing would be quantized: of 3 tensors"),
                                                              HasSubstr("1 output head"), HasSubstr("2 norm")));
  EXPECT_THAT(decide_error(*odd, base_recipe()), HasSubstr("4-bit packing"));
}

TEST(Decide, RefusesQuantizedSources) {
  const HeaderCheckpoint gptq(llama_tensors(), R"({"quantization_config": {"quant_method": "gptq", "bits": 4}})");
  const HeaderCheckpoint nested(llama_tensors(), R"({"text_config": {"quantization_config": {}}})");
  const HeaderCheckpoint null(llama_tensors(), R"({"quantization_config": null})");

  EXPECT_THAT(decide_error(*gptq, base_recipe(), ErrorCode::kBadInput),
              AllOf(HasSubstr("\"gptq\""), HasSubstr("F32, F16, BF16 or F64")));
  EXPECT_THAT(decide_error(*nested, base_recipe(), ErrorCode::kBadInput), HasSubstr("\"unnamed\""));
  EXPECT_EQ(decide_error(*null, base_recipe()), "");
}

TEST(Decide, ReadsTheModelTypeFromTheConfig) {
  const std::vector<FakeTensor> tensors = {{"h.0.attn.c_attn.weight", {64, 192}}, {"h.0.attn.q_proj.weight", {64, 64}}};
  const HeaderCheckpoint gpt2(tensors, R"({"model_type": "gpt2"})");
  const HeaderCheckpoint other(tensors, R"({"model_type": "gpt_bigcode"})");

  EXPECT_EQ(decision_of(*gpt2, base_recipe(), "h.0.attn.c_attn.weight").keep, KeepReason::kConvolution);
  EXPECT_TRUE(decision_of(*other, base_recipe(), "h.0.attn.c_attn.weight").quantize());
}

}  // namespace
}  // namespace halfquad
