#include <algorithm>
#include <string>

#include <gtest/gtest.h>

#include "sharding/convert_model.h"
#include "tests/support/expect_error.h"
#include "tests/unit/sharding/tiny_output.h"

namespace halfquad {
namespace {

using test::TinyOutput;

/// What becomes of the layers of every kind.
class ConvertModelTest : public ::testing::Test {
 protected:
  struct Found {
    Decision decision;
    std::string change;
  };

  Found convert(const std::string& layer, std::string_view format, DType stored = DType::kF16) {
    const ConvertedModel model = convert_model(output_, plain_model(output_), *format_named(format), stored);
    for (std::size_t i = 0; i < model.decisions.size(); ++i) {
      EXPECT_EQ(model.decisions[i].source, i);
      if (model.checkpoint.tensors()[i].name == "model.layers.0." + layer + ".weight") {
        return {model.decisions[i], model.changes[i]};
      }
    }
    ADD_FAILURE() << layer;
    return {};
  }

  void expect(const std::string& layer, std::string_view format, bool given, const std::string& change,
              DType stored = DType::kF16) {
    SCOPED_TRACE(layer + " to " + std::string(format));
    const Found found = convert(layer, format, stored);
    EXPECT_TRUE(found.decision.quantize()) << found.decision.why;
    EXPECT_EQ(found.decision.given, given);
    EXPECT_EQ(found.change, change);
  }

  TinyOutput tiny_{test::every_kind_of_layer()};
  QuantizedModel output_{*tiny_.fs, tiny_.output_path};
};

TEST_F(ConvertModelTest, HoldsWhatItCanAndSaysWhatChanges) {
  for (const char* layer : {"a", "b", "c", "d", "e", "f", "g"}) expect(layer, "hqq", true, "");
  expect("h", "hqq", false, "one scale for the tensor");
  for (const char* layer : {"a", "b", "d", "e", "f", "h"}) expect(layer, "hdf5", true, "");
  expect("c", "hdf5", false, "groups along rows instead of columns");
  expect("a", "hdf5", true, "scales are rounded from F16 to BF16", DType::kBF16);
  expect("a", "hdf5", true, "", DType::kF32);
  expect("a", "mlx", true, "offsets are rounded to F16");
  expect("d", "mlx", true, "offsets are rounded to F16");
  expect("a", "compressed-tensors", true, "compressed-tensors has no fractional zeros here");
  expect("d", "torchao", false, "4 bits instead of 8");
}

TEST_F(ConvertModelTest, TakesTheSettingsOfTheLayer) {
  const QuantSpec a = convert("a", "mlx").decision.spec;
  EXPECT_EQ(a.width, CodeWidth::k4);
  EXPECT_EQ(a.group_size, 32);
  const QuantSpec f = convert("f", "mlx").decision.spec;  // 1.58 bits
  EXPECT_EQ(f.width, CodeWidth::k2);
  EXPECT_EQ(convert("c", "hqq").decision.spec.axis, 0);
  EXPECT_EQ(convert("b", "hdf5").decision.spec.group_size, 8);
  EXPECT_EQ(convert("b", "torchao").decision.keep, KeepReason::kFormat);  // rows of 24
  test::expect_error(ErrorCode::kUsage, {"gptq has no place for any of the 8 quantized layers", "model.layers.0.a"},
                     [&] { static_cast<void>(convert("b", "gptq")); });  // fewer than 32 rows
}

TEST(ConvertModel, SolvesAgainWhatHasOnlyLargerGroups) {
  QuantSpec spec;
  spec.group_size = 16;
  const TinyOutput tiny({{"model.layers.0.x", 16, 64, DType::kBF16, spec}});
  const QuantizedModel output(*tiny.fs, tiny.output_path);
  const ConvertedModel model = convert_model(output, plain_model(output), *format_named("mlx"), DType::kF16);
  const auto layer = std::ranges::find_if(model.decisions, &Decision::quantize);
  ASSERT_NE(layer, model.decisions.end());
  EXPECT_FALSE(layer->given);
  EXPECT_EQ(model.changes[layer->source], "groups of 64 instead of 16");
}

TEST_F(ConvertModelTest, WhatHasNoPlaceBecomesPlain) {
  const ConvertedModel model = convert_model(output_, plain_model(output_), *format_named("torchao"), DType::kF16);
  const SourceTensor& b = *model.checkpoint.find("model.layers.0.b.weight");
  EXPECT_EQ(b.kept_as, DType::kF32);  // the model's dtype
  EXPECT_NE(b.decoder, nullptr);
  ASSERT_FALSE(model.notes.empty());
  EXPECT_NE(model.notes.back().find("become plain tensors"), std::string::npos) << model.notes.back();
  EXPECT_FALSE(model.checkpoint.config()->contains("quantization_config"));
}

TEST(NaturalLess, ComparesNumbers) {
  EXPECT_TRUE(natural_less("layers.2.x", "layers.10.a"));
  EXPECT_FALSE(natural_less("layers.10.a", "layers.2.x"));
  EXPECT_TRUE(natural_less("a", "ab"));
  EXPECT_FALSE(natural_less("a1", "a01"));
  EXPECT_FALSE(natural_less("a01", "a1"));
  EXPECT_TRUE(natural_less("a9b", "a9c"));
  EXPECT_TRUE(natural_less("a99999999999999999999", "a100000000000000000000"));
}

}  // namespace
}  // namespace halfquad
