#include <string>

#include <boost/json/parse.hpp>
#include <gtest/gtest.h>

#include "sharding/source_config.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

SourceConfig parse(const std::string& text) { return parse_source_config(boost::json::parse(text).as_object()); }

SourceConfig parse_quantization(const std::string& text) { return parse(R"({"quantization_config": )" + text + "}"); }

void expect_refused(const std::string& quantization, std::initializer_list<std::string_view> parts) {
  test::expect_error(ErrorCode::kBadInput, parts, [&] { static_cast<void>(parse_quantization(quantization)); });
}

TEST(SourceConfig, ReadsTheModelsSizes) {
  const SourceConfig config = parse(R"({"model_type": "deepseek_v3", "hidden_size": 64, "intermediate_size": 99,
                                        "moe_intermediate_size": 32, "n_routed_experts": 8, "torch_dtype": "float16"})");
  EXPECT_EQ(config.method, SourceMethod::kNone);
  EXPECT_EQ(config.model_type, "deepseek_v3");
  EXPECT_EQ(config.hidden_size, 64);
  EXPECT_EQ(config.expert_width, 32);
  EXPECT_EQ(config.expert_count, 8);
  EXPECT_EQ(name_of(config.plain_dtype), "F16");
}

TEST(SourceConfig, ReadsTheTextModelOfSeveralParts) {
  const SourceConfig config = parse(R"({"model_type": "llama4", "hidden_size": 1, "text_config": {"model_type":
      "llama4_text", "hidden_size": 64, "intermediate_size": 32, "num_local_experts": 4, "dtype": "float32",
      "quantization_config": {"quant_method": "mxfp4"}}})");
  EXPECT_EQ(config.model_type, "llama4_text");
  EXPECT_EQ(config.hidden_size, 64);
  EXPECT_EQ(config.expert_width, 32);
  EXPECT_EQ(config.expert_count, 4);
  EXPECT_EQ(name_of(config.plain_dtype), "F32");
  EXPECT_EQ(config.method, SourceMethod::kMxfp4);
}

TEST(SourceConfig, OddModelSizesAreAsGoodAsNone) {
  const SourceConfig config =
      parse(R"({"model_type": 3, "hidden_size": [1, 2], "intermediate_size": -1, "num_experts": 0,
                                        "torch_dtype": null, "text_config": null, "quantization_config": null})");
  EXPECT_EQ(config.model_type, "");
  EXPECT_FALSE(config.hidden_size || config.expert_width || config.expert_count);
  EXPECT_EQ(name_of(config.plain_dtype), "BF16");
}

TEST(SourceConfig, ReadsFp8) {
  const SourceConfig config = parse_quantization(R"({"quant_method": "fp8", "weight_block_size": [128, 64]})");
  EXPECT_EQ(config.method, SourceMethod::kFp8);
  EXPECT_EQ(config.block, (std::array<std::int64_t, 2>{128, 64}));
  EXPECT_FALSE(parse_quantization(R"({"quant_method": "fbgemm_fp8"})").block.has_value());
}

TEST(SourceConfig, TargetsThatNameAModuleWinOverItsClass) {
  const SourceConfig config = parse_quantization(R"({"quant_method": "compressed-tensors", "config_groups": {
      "a": {"targets": ["Linear"], "weights": {"num_bits": 4, "group_size": 128, "symmetric": false}},
      "d": {"targets": ["re:_proj", "m"], "weights": {"num_bits": 2}},
      "b": {"targets": ["re:.*\\.k_proj$"], "weights": {"num_bits": 8, "group_size": -1}},
      "c": {"targets": ["m.o_proj"], "weights": {"num_bits": 8, "type": "float", "block_structure": [64, 32]}}}})");
  EXPECT_EQ(config.scheme_of("m.q_proj").bits, 4);
  EXPECT_EQ(config.scheme_of("m.q_proj").group_size, 128);
  EXPECT_FALSE(config.scheme_of("m.q_proj").symmetric);
  EXPECT_EQ(config.scheme_of("m.k_proj").bits, 8);
  EXPECT_EQ(config.scheme_of("m.k_proj").group_size, 0);
  EXPECT_TRUE(config.scheme_of("m.k_proj").symmetric);
  EXPECT_TRUE(config.scheme_of("m.o_proj").is_float);
  EXPECT_EQ(config.scheme_of("m.o_proj").block, (std::array<std::int64_t, 2>{64, 32}));
  EXPECT_EQ(config.scheme_of("m.k_proj.lora").bits, 4) << "the pattern has an end";
}

TEST(SourceConfig, OtherQuantizationsAreRefusedByName) {
  for (const std::string method : {"gptq", "awq", "bitsandbytes", "hqq", "modelopt"}) {
    expect_refused(R"({"quant_method": ")" + method + "\"}", {"already quantized", "quant_method", method});
  }
  expect_refused("{}", {"quant_method", "unnamed"});
  const std::string ct = R"({"quant_method": "compressed-tensors", )";
  expect_refused(ct + R"("format": "marlin-24"})", {"format", "marlin-24"});
  expect_refused(ct + R"("sparsity_config": {"format": "sparse-24-bitmask"}})", {"sparse-24-bitmask"});
  const auto group = [&](const std::string& weights) {
    return ct + R"("config_groups": {"g": {"targets": ["Linear"], "weights": )" + weights + "}}}";
  };
  expect_refused(group(R"({"num_bits": 4, "type": "float"})"), {"float4"});
  expect_refused(group(R"({"num_bits": 8, "type": "complex"})"), {"complex8"});
  expect_refused(ct + R"("config_groups": {"g": {"targets": ["Linear"], "format": "nvfp4-pack-quantized"}}})",
                 {"nvfp4-pack-quantized"});
}

TEST(SourceConfig, ValuesOfTheWrongKindAreRefusedByKey) {
  expect_refused(R"("fp8")", {"quantization_config", "an object", "fp8"});
  expect_refused(R"({"quant_method": 3})", {"quant_method", "a string", "3"});
  expect_refused(R"({"quant_method": "fp8", "weight_block_size": [128]})", {"weight_block_size", "two whole numbers"});
  expect_refused(R"({"quant_method": "fp8", "weight_block_size": [128, 0]})", {"weight_block_size", "positive"});
  const std::string ct = R"({"quant_method": "compressed-tensors", "config_groups": )";
  expect_refused(ct + "[]}", {"config_groups", "an object"});
  expect_refused(ct + R"({"g": 3}})", {"\"g\"", "an object"});
  expect_refused(ct + R"({"g": {"weights": {}}}})", {"targets", "a list"});
  expect_refused(ct + R"({"g": {"targets": "Linear", "weights": {}}}})", {"targets", "a list"});
  expect_refused(ct + R"({"g": {"targets": [3], "weights": {}}}})", {"targets", "a list"});
  const auto weights = [&](const std::string& text) {
    return ct + R"({"g": {"targets": ["Linear"], "weights": {)" + text + "}}}}";
  };
  expect_refused(weights(R"("num_bits": 1)"), {"num_bits", "2 to 8"});
  expect_refused(weights(R"("num_bits": 9)"), {"num_bits", "2 to 8"});
  expect_refused(weights(R"("num_bits": "4")"), {"num_bits", "positive"});
  expect_refused(weights(R"("symmetric": 1)"), {"symmetric", "true or false"});
  expect_refused(weights(R"("group_size": 0)"), {"group_size", "positive"});
  expect_refused(weights(R"("block_structure": "128x128")"), {"block_structure", "two whole numbers"});
}

TEST(SourceConfig, AnUnusablePatternIsRefused) {
  const SourceConfig config = parse_quantization(R"({"quant_method": "compressed-tensors", "config_groups": {
      "a": {"targets": ["re:(("], "weights": {"num_bits": 4}}}})");
  test::expect_error(ErrorCode::kBadInput, {"re:((", "pattern"},
                     [&] { static_cast<void>(config.scheme_of("m.q_proj")); });
}

}  // namespace
}  // namespace halfquad
