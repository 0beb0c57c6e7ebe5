#include <cmath>

#include <gmock/gmock.h>

#include "format_limits.h"
#include "header_checkpoint.h"
#include "sharding/choice_sizer.h"
#include "sharding/output_layout.h"
#include "sharding/spec_chooser.h"

namespace halfquad {
namespace {

using testing::HasSubstr;

constexpr char kLlama[] = R"({"model_type": "llama"})";

class SpecChooser : public testing::Test {
 protected:
  [[nodiscard]] SizedChoice size(const SpecChoice& choice, const Format& format = hqq_format()) const {
    const SpecLimits limits = test::limits_of(format);
    const SourceTexts texts;
    const ModelOutline outline(*checkpoint_, recipe_);
    return ChoiceSizer({*checkpoint_, recipe_, format, limits, DType::kF16, texts, outline}).size(choice);
  }
  [[nodiscard]] std::vector<SizedChoice> sizes() const {
    std::vector<SizedChoice> sized;
    for (const SpecChoice& choice : spec_choices(hqq_format())) sized.push_back(size(choice));
    return sized;
  }

  HeaderCheckpoint checkpoint_{llama_tensors(256, 512), kLlama};
  Recipe recipe_;
};

TEST_F(SpecChooser, SizesAreThoseOfTheLayout) {
  const SizedChoice sized = size({.width = CodeWidth::k3, .group_size = 32});

  recipe_.defaults.width = CodeWidth::k3;
  recipe_.defaults.group_size = 32;
  const OutputLayout layout(*checkpoint_, decide(*checkpoint_, recipe_), DType::kF16);
  EXPECT_EQ(sized.bytes, layout.data_bytes());
  EXPECT_EQ(sized.layers, layout.quantized().size());
  EXPECT_EQ(sized.misfits, 0U);
  EXPECT_GT(sized.bits_per_weight, 3 + 32.0 / 32);
  EXPECT_LT(sized.bits_per_weight, 3.3 + 32.0 / 32) << "ten codes of 3 bits lie in 32";
}

TEST_F(SpecChooser, NamesItsOptions) {
  EXPECT_EQ((SpecChoice{.width = CodeWidth::k4, .group_size = 64}.options()), "--bits 4 --group-size 64");
  EXPECT_EQ(SpecChoice{.mixture = "Q4_K_M"}.options(), "--mixture Q4_K_M");
  EXPECT_EQ(SpecChoice{}.options(), "");
}

TEST_F(SpecChooser, TheBestIsTheLeastErrorThatFits) {
  const std::vector<SizedChoice> choices = sizes();
  const auto best_at = [&](std::uint64_t room) {
    const auto best = best_choice(choices, {.bytes = room});
    return best ? choices[*best].choice.options() : std::string("none");
  };

  EXPECT_EQ(best_at(std::uint64_t{1} << 40), "--bits 8 --group-size 32");
  const std::uint64_t of_four = size({.width = CodeWidth::k4, .group_size = 32}).bytes;
  EXPECT_EQ(best_at(of_four), "--bits 4 --group-size 32");
  EXPECT_EQ(best_at(of_four - 1), "--bits 4 --group-size 64");
  EXPECT_EQ(best_at(0), "none");
}

TEST_F(SpecChooser, MoreRoomNeverMakesTheErrorLarger) {
  const std::vector<SizedChoice> choices = sizes();
  double before = 1e9;
  for (std::uint64_t room = 100'000; room < 4'000'000; room += 10'000) {
    const auto best = best_choice(choices, {.bytes = room});
    if (!best) continue;
    EXPECT_LE(choices[*best].bytes, room);
    EXPECT_LE(choices[*best].expected_error, before);
    before = choices[*best].expected_error;
  }
  EXPECT_LT(before, 0.01);
}

TEST_F(SpecChooser, OfEqualErrorsTheSmallestIsTaken) {
  std::vector<SizedChoice> choices(3);
  for (SizedChoice& choice : choices) choice.expected_error = 0.5;
  choices[0].bytes = 30;
  choices[1].bytes = 20;
  choices[2].bytes = 10;
  choices[2].why_not = "cannot be";

  EXPECT_EQ(best_choice(choices, {.bytes = 100}), 1U);
}

TEST_F(SpecChooser, ABudgetCanBeOfBitsAndTheSmallestIsKnown) {
  std::vector<SizedChoice> choices(3);
  for (std::size_t i = 0; i < choices.size(); ++i) {
    choices[i].bytes = 30 - 10 * i;
    choices[i].bits_per_weight = 4.5 - static_cast<double>(i);
    choices[i].expected_error = 0.1 * static_cast<double>(i);
  }
  choices[2].why_not = "cannot be";

  EXPECT_EQ(best_choice(choices, {.bits_per_weight = 4.5}), 0U);
  EXPECT_EQ(best_choice(choices, {.bits_per_weight = 4.49}), 1U);
  EXPECT_EQ(best_choice(choices, {.bytes = 25, .bits_per_weight = 4.5}), 1U);
  EXPECT_EQ(best_choice(choices, {.bits_per_weight = 3.4}), std::nullopt);
  EXPECT_EQ(smallest_choice(choices), 1U);
}

TEST_F(SpecChooser, SaysWhyAFormatCannotHoldAChoice) {
  const SizedChoice sized = size({.width = CodeWidth::k3, .group_size = 64}, *format_named("torchao"));

  EXPECT_THAT(sized.why_not, HasSubstr("torchao has no 3-bit codes"));
  EXPECT_EQ(sized.bytes, 0U);
  EXPECT_TRUE(size({.width = CodeWidth::k4, .group_size = 64}, *format_named("torchao")).why_not.empty());
}

TEST_F(SpecChooser, CountsLayersWhoseShapeDoesNotFit) {
  recipe_.rules.push_back(parse_rule("q_proj=group-size:48"));

  const SizedChoice sized = size({.width = CodeWidth::k4, .group_size = 64});

  EXPECT_EQ(sized.misfits, 2U);
  EXPECT_EQ(sized.layers, 12U);
}

TEST_F(SpecChooser, RulesGoOverTheChoice) {
  const std::uint64_t before = size({.width = CodeWidth::k2, .group_size = 64}).bytes;
  recipe_.rules.push_back(parse_rule("down_proj=bits:8"));

  EXPECT_GT(size({.width = CodeWidth::k2, .group_size = 64}).bytes, before);
}

TEST_F(SpecChooser, OffersGgufItsMixtures) {
  const std::vector<SpecChoice> choices = spec_choices(*format_named("gguf"));

  EXPECT_TRUE(std::ranges::any_of(choices, [](const SpecChoice& choice) { return choice.mixture == "Q4_K_M"; }));
  EXPECT_TRUE(std::ranges::none_of(choices, [](const SpecChoice& choice) { return choice.width.has_value(); }));
}

TEST_F(SpecChooser, TakesTheGroupSizeThatIsGiven) {
  const std::vector<SpecChoice> choices = spec_choices(hqq_format(), 16);

  EXPECT_EQ(choices.size(), 7U);
  EXPECT_TRUE(std::ranges::all_of(choices, [](const SpecChoice& choice) { return choice.group_size == 16; }));
}

TEST(ExpectedError, IsThatOfRoundingGaussianWeights) {
  const auto error = [](CodeWidth width, std::int64_t group, ZeroKind zeros = ZeroKind::kFloat) {
    QuantSpec spec;
    spec.width = width;
    spec.group_size = group;
    spec.zeros = zeros;
    return expected_error(spec, 64, 4096);
  };
  // The range of 64 normal numbers is 4.74 on average (tables of d2 for control charts): 4.74 / 15 / sqrt(12).
  EXPECT_NEAR(error(CodeWidth::k4, 64), 4.74 / 15 / std::sqrt(12.0), 0.002);
  EXPECT_LT(error(CodeWidth::k4, 32), error(CodeWidth::k4, 128));
  EXPECT_LT(error(CodeWidth::k5, 128), error(CodeWidth::k4, 32));
  EXPECT_GT(error(CodeWidth::k4, 64, ZeroKind::kSymmetric), error(CodeWidth::k4, 64));
  EXPECT_GT(error(CodeWidth::k4, 0), error(CodeWidth::k4, 128)) << "whole rows";
}

}  // namespace
}  // namespace halfquad
