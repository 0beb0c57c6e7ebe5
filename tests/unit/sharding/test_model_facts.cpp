#include <gtest/gtest.h>

#include "header_checkpoint.h"
#include "sharding/model_facts.h"

namespace halfquad {
namespace {

ModelFacts facts_of(const std::string& config) {
  const HeaderCheckpoint checkpoint({{"model.embed_tokens.weight", {64, 64}}}, config);
  return model_facts(*checkpoint);
}

TEST(ModelFacts, CountsACacheWithFewerKeyValueHeads) {
  const ModelFacts facts = facts_of(R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096,
    "max_position_embeddings": 131072})");

  ASSERT_TRUE(facts.cache);
  EXPECT_EQ(facts.architecture, "llama");
  EXPECT_EQ(facts.longest_context, 131072);
  EXPECT_EQ(facts.cache->head_size, 128);
  // Llama 3.1 8B: 128 KiB a token.
  EXPECT_EQ(facts.cache->bytes(8192), std::uint64_t{8192} * 131072);
}

TEST(ModelFacts, TakesTheHeadSizeThatIsGivenAndGptNames) {
  EXPECT_EQ(facts_of(R"({"num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 512, "head_dim": 256})")
                .cache->values_per_token,
            2 * 8 * 256);
  EXPECT_EQ(facts_of(R"({"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024})").cache->values_per_token,
            2 * 768);
}

TEST(ModelFacts, KeepsOneVectorATokenOfLatentAttention) {
  const ModelFacts facts = facts_of(R"({"model_type": "deepseek_v3", "num_hidden_layers": 61,
    "num_attention_heads": 128, "num_key_value_heads": 128, "hidden_size": 7168, "kv_lora_rank": 512,
    "qk_rope_head_dim": 64})");

  EXPECT_EQ(facts.cache->values_per_token, 576);
  EXPECT_EQ(facts.cache->key_value_heads, 0);
  EXPECT_EQ(facts.cache->bytes(1), std::uint64_t{61} * 576 * 2);
}

TEST(ModelFacts, CountsWindowsWhereEveryEngineHasThem) {
  const std::string start = R"({"num_attention_heads": 4, "hidden_size": 256, "sliding_window": 100, )";
  const auto typed = facts_of(start + R"("num_hidden_layers": 4, "layer_types":
    ["sliding_attention", "full_attention", "linear_attention", "sliding_attention"]})");
  EXPECT_EQ(typed.cache->layers, 1);
  EXPECT_EQ(typed.cache->windowed_layers, 2);
  EXPECT_EQ(typed.cache->bytes(1000), std::uint64_t{(1 * 1000 + 2 * 100) * 2 * 256 * 2});
  EXPECT_EQ(typed.cache->bytes(10), std::uint64_t{(10 + 2 * 10) * 2 * 256 * 2});

  const auto pattern = facts_of(start + R"("num_hidden_layers": 26, "sliding_window_pattern": 6})");
  EXPECT_EQ(pattern.cache->layers, 4);
  EXPECT_EQ(pattern.cache->windowed_layers, 22);

  const auto plain = facts_of(start + R"("num_hidden_layers": 4, "model_type": "mistral"})");
  EXPECT_EQ(plain.cache->layers, 4) << "llama.cpp keeps everything";
}

TEST(ModelFacts, ReadsTheTextPartOfAModelWithSeveral) {
  const ModelFacts facts = facts_of(R"({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 256}})");

  EXPECT_EQ(facts.architecture, "gemma3");
  EXPECT_EQ(facts.cache->layers, 2);
}

TEST(ModelFacts, AnEncoderHasNoCache) {
  const ModelFacts facts = facts_of(R"({"model_type": "bert", "architectures": ["BertModel"], "num_hidden_layers": 6,
    "num_attention_heads": 12, "hidden_size": 384})");

  EXPECT_FALSE(facts.generates);
  EXPECT_FALSE(facts.cache);
}

TEST(ModelFacts, LeavesEmptyWhatTheConfigDoesNotSay) {
  EXPECT_FALSE(facts_of("{}").cache);
  EXPECT_FALSE(facts_of("").cache);
  EXPECT_FALSE(facts_of(R"({"num_hidden_layers": "many", "num_attention_heads": 4, "hidden_size": 256})").cache);
  EXPECT_FALSE(facts_of(R"({"num_hidden_layers": -3, "num_attention_heads": 4, "hidden_size": 256})").cache);
}

}  // namespace
}  // namespace halfquad
