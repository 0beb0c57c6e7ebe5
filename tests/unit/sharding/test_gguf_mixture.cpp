#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "runtime/error.h"
#include "sharding/block_type.h"
#include "sharding/formats/gguf_mixture.h"
#include "tests/support/expect_error.h"

namespace halfquad::test {
namespace {

using Id = GgmlTypeId;

struct Model {
  std::int64_t layers = 16;
  std::int64_t heads = 8, kv_heads = 2;
  std::int64_t experts = 0;
  bool has_output = true;
};

std::vector<GgufKey> keys_of(const Model& model) {
  const auto u32 = [](std::int64_t value) { return static_cast<std::uint32_t>(value); };
  return {{"llama.block_count", u32(model.layers)},
          {"llama.attention.head_count", u32(model.heads)},
          {"llama.attention.head_count_kv", u32(model.kv_heads)},
          {"llama.expert_count", u32(model.experts)}};
}

std::vector<std::string> names_of(const Model& model) {
  std::vector<std::string> names{"token_embd.weight"};
  if (model.has_output) names.emplace_back("output.weight");
  for (std::int64_t i = 0; i < model.layers; ++i) {
    for (const char* part : {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}) {
      names.push_back(fmt::format("blk.{}.{}.weight", i, part));
    }
  }
  return names;
}

/// Types of one part of all layers, a letter each: "4" for Q4_K, ..., "0" for Q8_0.
std::string types_of(std::string_view mixture, const Model& model, std::string_view part) {
  const auto types = gguf_mixture(mixture, keys_of(model), names_of(model));
  std::string text;
  for (std::int64_t i = 0; i < model.layers; ++i) {
    const std::string_view name = ggml_type(types.at(fmt::format("blk.{}.{}.weight", i, part))).name;
    text.push_back(name == "Q8_0" ? '0' : name[1]);
  }
  return text;
}

TEST(GgufMixture, MediumGivesMoreBitsToSomeValueAndDownProjections) {
  // First and last eighth, and every third between: of 16 layers 0 1, 14 15, and 4 7 10 13.
  EXPECT_EQ(types_of("Q4_K_M", {}, "attn_v"), "6644644644644666");
  EXPECT_EQ(types_of("Q4_K_M", {}, "ffn_down"), "6644644644644666");
  EXPECT_EQ(types_of("Q5_K_M", {}, "ffn_down"), "6655655655655666");
  for (const char* part : {"attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"}) {
    EXPECT_EQ(types_of("Q4_K_M", {}, part), "4444444444444444") << part;
  }
}

TEST(GgufMixture, SmallRaisesTheFirstLayersOnly) {
  EXPECT_EQ(types_of("Q4_K_S", {}, "attn_v"), "5555444444444444");
  EXPECT_EQ(types_of("Q4_K_S", {}, "ffn_down"), "5544444444444444");
  EXPECT_EQ(types_of("Q5_K_S", {}, "ffn_down"), "5555555555555555");
  EXPECT_EQ(types_of("Q3_K_S", {}, "ffn_down"), "3333333333333333");
}

TEST(GgufMixture, ThreeAndTwoBitMixtures) {
  EXPECT_EQ(types_of("Q3_K_M", {}, "attn_v"), "5544444444444444");
  EXPECT_EQ(types_of("Q3_K_M", {}, "ffn_down"), "5444444444444444");
  EXPECT_EQ(types_of("Q3_K_M", {}, "attn_output"), "4444444444444444");
  EXPECT_EQ(types_of("Q3_K_L", {}, "attn_v"), "5555555555555555");
  EXPECT_EQ(types_of("Q3_K_L", {}, "ffn_down"), "5555555555555555");
  EXPECT_EQ(types_of("Q3_K_L", {}, "attn_output"), "5555555555555555");
  EXPECT_EQ(types_of("Q2_K", {}, "attn_v"), "4444444444444444");
  EXPECT_EQ(types_of("Q2_K", {.kv_heads = 4}, "attn_v"), "3333333333333333");
  EXPECT_EQ(types_of("Q2_K", {}, "ffn_down"), "3333333333333333");
  EXPECT_EQ(types_of("Q2_K", {}, "attn_output"), "3333333333333333");
  EXPECT_EQ(types_of("Q2_K_S", {}, "ffn_down"), "4422222222222222");
  EXPECT_EQ(types_of("Q2_K", {}, "ffn_up"), "2222222222222222");
}

TEST(GgufMixture, EightExpertsKeepKeysAndValuesAtEightBits) {
  const Model mixtral{.experts = 8};
  EXPECT_EQ(types_of("Q4_K_M", mixtral, "attn_v"), "0000000000000000");
  EXPECT_EQ(types_of("Q4_K_M", mixtral, "attn_k"), "0000000000000000");
  EXPECT_EQ(types_of("Q4_K_M", mixtral, "attn_output"), "5555555555555555");
  EXPECT_EQ(types_of("Q5_K_M", mixtral, "attn_output"), "5555555555555555");
  EXPECT_EQ(types_of("Q3_K_L", mixtral, "attn_output"), "3333333333333333");
}

TEST(GgufMixture, EightyLayersShareTheirValuesAmongHeads) {
  const Model large{.layers = 80, .heads = 64, .kv_heads = 8};
  EXPECT_EQ(types_of("Q3_K_S", large, "attn_v"), std::string(80, '5'));
  EXPECT_EQ(types_of("Q4_K_M", large, "attn_v").substr(8, 6), "665565");
}

TEST(GgufMixture, EndsOfTheModelHaveTypesOfTheirOwn) {
  const auto with_head = gguf_mixture("Q4_K_M", keys_of({}), names_of({}));
  EXPECT_EQ(with_head.at("output.weight"), Id::kQ6_K);
  EXPECT_EQ(with_head.at("token_embd.weight"), Id::kQ4_K);
  const Model tied{.has_output = false};
  EXPECT_EQ(gguf_mixture("Q4_K_M", keys_of(tied), names_of(tied)).at("token_embd.weight"), Id::kQ6_K);
  EXPECT_EQ(gguf_mixture("q8_0", keys_of({}), names_of({})).at("output.weight"), Id::kQ8_0);
  EXPECT_EQ(gguf_mixture("Q4_0", keys_of({}), names_of({})).at("output.weight"), Id::kQ6_K);
}

TEST(GgufMixture, AnUnknownNameIsRefusedWithTheKnownOnes) {
  expect_error(ErrorCode::kUsage, {"Q4_K_XL", "Q4_K_M"}, [] { static_cast<void>(gguf_mixture("Q4_K_XL", {}, {})); });
}

std::vector<Decision> decisions_of(std::string_view mixture) {
  std::vector<Decision> decisions;
  for (const auto& [name, type] : gguf_mixture(mixture, keys_of({}), names_of({}))) {
    Decision decision;
    block_type(type).apply_to(decision.spec);
    decisions.push_back(decision);
  }
  return decisions;
}

TEST(GgufMixture, FileTypeNamesTheMixture) {
  const std::map<std::string, std::uint32_t> types = {{"Q2_K", 10},   {"Q3_K_S", 11}, {"Q3_K_M", 12}, {"Q3_K_L", 13},
                                                      {"Q4_K_S", 14}, {"Q4_K_M", 15}, {"Q5_K_S", 16}, {"Q5_K_M", 17},
                                                      {"Q6_K", 18},   {"Q4_0", 2},    {"Q8_0", 7}};
  for (const auto& [mixture, number] : types) EXPECT_EQ(gguf_file_type(decisions_of(mixture)), number) << mixture;
}

TEST(BlockType, EveryTypeIsTheOneOfItsOwnSpec) {
  for (const BlockType& type : block_types()) {
    QuantSpec spec;
    type.apply_to(spec);
    EXPECT_EQ(block_type_of(spec), &type) << type.name();
    EXPECT_EQ(find_block_type(type.name()), &type);
  }
  EXPECT_EQ(find_block_type("q4_k")->id, Id::kQ4_K);
  EXPECT_EQ(find_block_type("IQ4_NL"), nullptr);
}

}  // namespace
}  // namespace halfquad::test
