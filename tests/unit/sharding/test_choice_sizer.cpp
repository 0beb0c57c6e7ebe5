#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "format_limits.h"
#include "header_checkpoint.h"
#include "sharding/choice_sizer.h"
#include "sharding/fused_parts.h"
#include "sharding/output_layout.h"
#include "sharding/vocabulary.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

using testing::HasSubstr;

constexpr char kMoe[] = R"({"model_type": "qwen3_moe"})";

/// Ten blocks, of which the first is dense; biases, and a last block of another width.
std::vector<FakeTensor> moe_tensors() {
  std::vector<FakeTensor> tensors = {{"lm_head.weight", {320, 128}}, {"model.embed_tokens.weight", {320, 128}}};
  for (int i = 0; i < 10; ++i) {
    const std::string block = "model.layers." + std::to_string(i) + ".";
    for (const char* part : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
      tensors.push_back({block + "self_attn." + part + ".weight", {128, 128}});
      tensors.push_back({block + "self_attn." + part + ".bias", {128}});
    }
    tensors.push_back({block + "input_layernorm.weight", {128}});
    const std::int64_t inner = i == 9 ? 192 : 256;
    const auto add_mlp = [&](const std::string& mlp) {
      tensors.push_back({mlp + "gate_proj.weight", {inner, 128}});
      tensors.push_back({mlp + "up_proj.weight", {inner, 128}});
      tensors.push_back({mlp + "down_proj.weight", {128, inner}});
    };
    if (i == 0) add_mlp(block + "mlp.");
    for (int expert = 0; i > 0 && expert < 6; ++expert) add_mlp(block + "mlp.experts." + std::to_string(expert) + ".");
    if (i > 0) tensors.push_back({block + "mlp.gate.weight", {6, 128}});
  }
  return tensors;
}

/// A model, what is made of it, and its sizes.
struct Sized {
  explicit Sized(std::string_view name, Recipe its_recipe = {}, std::vector<FakeTensor> tensors = moe_tensors())
      : checkpoint(tensors, kMoe),
        format(*format_named(name)),
        recipe(std::move(its_recipe)),
        limits(test::limits_of(format)),
        outline(*checkpoint, recipe),
        sizer({*checkpoint, recipe, format, limits, DType::kF16, texts, outline}) {}

  [[nodiscard]] std::vector<Decision> decisions(const SpecChoice& choice) const {
    std::vector<Decision> decided =
        decide(*checkpoint, recipe_with(choice, recipe, format, *checkpoint, outline.classes()), limits);
    format.settle(*checkpoint, decided);
    return decided;
  }
  [[nodiscard]] std::vector<SizedChoice> uniform() const {
    std::vector<SizedChoice> sized;
    for (const SpecChoice& choice : spec_choices(format)) sized.push_back(sizer.size(choice));
    return sized;
  }
  [[nodiscard]] std::vector<SizedChoice> mixtures() const {
    std::vector<ChoiceParts> parts;
    for (const SpecChoice& choice : spec_choices(format)) parts.push_back(sizer.parts(choice));
    return sizer.mixtures(parts);
  }
  /// Compares with the layout of the whole model.
  void expect_true(const SizedChoice& sized) const {
    ASSERT_EQ(sized.why_not, "");
    const OutputLayout layout(*checkpoint, decisions(sized.choice), DType::kF16, OutputLayout::kOneFile, format, texts);
    double bytes = 0, weights = 0;
    for (const QuantizedTensor& layer : layout.quantized()) {
      bytes += static_cast<double>(stored_bytes_of(layer, DType::kF16));
      weights += static_cast<double>(layer.rows * layer.cols);
    }
    EXPECT_EQ(sized.bytes, layout.data_bytes());
    EXPECT_EQ(sized.layers, layout.quantized().size());
    EXPECT_DOUBLE_EQ(sized.bits_per_weight, 8 * bytes / weights);
  }

  HeaderCheckpoint checkpoint;
  const Format& format;
  Recipe recipe;
  SpecLimits limits;
  SourceTexts texts;
  ModelOutline outline;
  ChoiceSizer sizer;
};

TEST(ChoiceSizer, SizesOfOneOfEachAreThoseOfTheWholeModel) {
  Recipe recipe;
  recipe.rules = {parse_rule("layers\\.4\\..*down_proj=bits:8,group-size:64"), parse_rule("experts\\.3\\.=keep:on")};
  recipe.skip = {"layers\\.7\\.self_attn"};
  std::vector<std::string> names = {"hqq", "mlx", "compressed-tensors", "gptq", "torchao", "awq"};
  if (HALFQUAD_TEST_WITH_HDF5) names.emplace_back("hdf5");
  for (const std::string& name : names) {
    for (const bool with_rules : {false, true}) {
      if (with_rules && (name == "torchao" || name == "awq")) continue;  // no 8 bit
      SCOPED_TRACE(name + (with_rules ? " with rules" : ""));
      const Sized sized(name, with_rules ? recipe : Recipe());
      std::size_t held = 0;
      for (const SizedChoice& choice : sized.uniform()) {
        if (!choice.why_not.empty()) continue;
        sized.expect_true(choice);
        ++held;
      }
      EXPECT_GE(held, 3U);
    }
  }
}

TEST(ChoiceSizer, SaysWhichRuleFindsNothingOfTheWholeModel) {
  Recipe recipe;
  recipe.rules = {parse_rule("no_such=bits:3")};
  const std::string text = "matches none of the " + std::to_string(moe_tensors().size()) + " tensors";
  test::expect_error(ErrorCode::kUsage, {text}, [&] { const Sized sized("hqq", recipe); });
}

TEST(ChoiceSizer, AWidthThatTheFormatLacksIsNoChoiceWhateverTheRules) {
  Recipe recipe;
  recipe.rules = {parse_rule("down_proj=bits:8")};
  const Sized sized("compressed-tensors", recipe);

  EXPECT_THAT(sized.sizer.size({.width = CodeWidth::k1, .group_size = 64}).why_not, HasSubstr("1-bit"));
}

TEST(ChoiceSizer, MixturesAreWhatTheirRecipesMake) {
  for (const std::string name : {"hqq", "mlx", "gptq"}) {
    SCOPED_TRACE(name);
    const Sized sized(name);
    const std::vector<SizedChoice> mixtures = sized.mixtures();
    ASSERT_GT(mixtures.size(), 100U);
    for (std::size_t i = 0; i < mixtures.size(); i += 17) {
      sized.expect_true(mixtures[i]);
      EXPECT_GT(*mixtures[i].choice.upper, *mixtures[i].choice.width);
    }
  }
}

TEST(ChoiceSizer, MixesOnlyNeighbouringWidthsOfTheFormat) {
  std::map<CodeWidth, CodeWidth> above;
  for (const SizedChoice& mixture : Sized("gptq").mixtures()) above[*mixture.choice.width] = *mixture.choice.upper;

  EXPECT_EQ(above,
            (std::map<CodeWidth, CodeWidth>{
                {CodeWidth::k2, CodeWidth::k3}, {CodeWidth::k3, CodeWidth::k4}, {CodeWidth::k4, CodeWidth::k8}}));
  above.clear();
  for (const SizedChoice& mixture : Sized("hqq").mixtures()) above[*mixture.choice.upper] = *mixture.choice.width;
  EXPECT_EQ(above[CodeWidth::k8], CodeWidth::k4) << "5 and 6 bit lie in bytes";
  EXPECT_TRUE(Sized("torchao").mixtures().empty()) << "it has 4 bit alone";
}

TEST(ChoiceSizer, WhatEnginesMergeHasOneSpecInEveryMixture) {
  const Sized sized("compressed-tensors");
  const std::vector<SizedChoice> mixtures = sized.mixtures();
  for (std::size_t i = 0; i < mixtures.size(); i += 5) {
    std::map<std::string, CodeWidth> merged;
    for (const Decision& decision : sized.decisions(mixtures[i].choice)) {  // settle() throws for different ones, too
      const std::string layer = fused_layer_of(module_of(sized.checkpoint->tensors()[decision.source].name));
      if (layer.empty() || !decision.quantize()) continue;
      EXPECT_EQ(merged.emplace(layer, decision.spec.width).first->second, decision.spec.width) << layer;
    }
  }
}

TEST(ChoiceSizer, ABudgetIsUsedBetterByMixturesAndNeverExceeded) {
  for (const std::string name : {"hqq", "mlx", "compressed-tensors", "gptq"}) {
    SCOPED_TRACE(name);
    const Sized sized(name);
    const std::vector<SizedChoice> uniform = sized.uniform();
    std::vector<SizedChoice> all = uniform;
    for (const SizedChoice& mixture : sized.mixtures()) all.push_back(mixture);
    double before = 1e9;
    std::size_t better = 0;
    for (double bits = 1; bits < 10; bits += 0.05) {
      const SizeBudget budget{.bits_per_weight = bits};
      const auto best = best_choice(all, budget);
      const auto best_uniform = best_choice(uniform, budget);
      if (!best) continue;
      EXPECT_LE(all[*best].bits_per_weight, bits);
      EXPECT_LE(all[*best].expected_error, before) << "more bits, more error at " << bits;
      before = all[*best].expected_error;
      if (best_uniform && before < uniform[*best_uniform].expected_error) ++better;
    }
    EXPECT_GE(better, 30U);
  }
}

TEST(ChoiceSizer, EmbeddingAndHeadAreCounted) {
  Recipe recipe;
  SpecOverride eight;
  eight.width = CodeWidth::k8;
  quantize_vocabulary(recipe, *HeaderCheckpoint(moe_tensors(), kMoe), eight);
  const Sized with("mlx", recipe), without("mlx");
  const SpecChoice choice{.width = CodeWidth::k4, .group_size = 64};

  const SizedChoice sized = with.sizer.size(choice);
  with.expect_true(sized);
  EXPECT_EQ(sized.layers, without.sizer.size(choice).layers + 2);
  EXPECT_GT(sized.bits_per_weight, without.sizer.size(choice).bits_per_weight);
  EXPECT_LT(sized.bytes, without.sizer.size(choice).bytes);
}

}  // namespace
}  // namespace halfquad
