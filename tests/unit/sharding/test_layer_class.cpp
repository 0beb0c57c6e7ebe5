#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "header_checkpoint.h"
#include "sharding/fused_parts.h"
#include "sharding/layer_class.h"

namespace halfquad {
namespace {

TEST(LayerRole, IsToldByNamesOfManyFamilies) {
  using enum LayerRole;
  const std::vector<std::pair<LayerRole, std::vector<std::string>>> wanted = {
      {kAttentionOut,
       {"model.layers.3.self_attn.o_proj", "model.decoder.layers.0.self_attn.out_proj",
        "encoder.layer.1.attention.output.dense", "transformer.h.2.self_attention.dense", "blk.4.attn_output",
        "encoder.block.0.layer.0.SelfAttention.o", "layers.0.attn.Wo", "model.layers.1.linear_attn.out_proj"}},
      {kAttentionIn,
       {"model.layers.3.self_attn.q_proj", "model.layers.3.self_attn.kv_a_proj_with_mqa",
        "model.layers.3.self_attn.qkv_proj", "encoder.layer.1.attention.self.query",
        "transformer.h.2.self_attention.query_key_value", "blk.4.attn_v", "layers.0.attn.Wqkv"}},
      {kMlpDown,
       {"model.layers.3.mlp.down_proj", "model.decoder.layers.0.fc2", "encoder.layer.1.output.dense",
        "transformer.h.2.mlp.dense_4h_to_h", "blk.4.ffn_down", "model.layers.2.mlp.shared_experts.down_proj",
        "encoder.block.0.layer.1.DenseReluDense.wo"}},
      {kMlpUp,
       {"model.layers.3.mlp.gate_proj", "model.layers.3.mlp.up_proj", "model.decoder.layers.0.fc1",
        "encoder.layer.1.intermediate.dense", "model.layers.0.mlp.gate_up_proj", "blk.4.ffn_gate",
        "model.layers.61.eh_proj"}},
      {kExperts,
       {"model.layers.3.mlp.experts.17.down_proj", "model.layers.3.block_sparse_moe.experts.0.w1",
        "blk.3.ffn_up_exps.17"}},
  };
  for (const auto& [role, modules] : wanted) {
    for (const std::string& module : modules) EXPECT_EQ(describe(layer_role(module)), describe(role)) << module;
  }
}

TEST(BlockPlace, IsBeforeTheFirstNumber) {
  const auto place = block_place("model.layers.12.mlp.experts.3.w1");
  ASSERT_TRUE(place);
  EXPECT_EQ(place->stack, "model.layers");
  EXPECT_EQ(place->block, 12);
  EXPECT_FALSE(block_place("lm_head"));
  EXPECT_FALSE(block_place("model.layers.x2.mlp"));
  EXPECT_FALSE(block_place("3"));
}

/// Linear layers of `blocks` blocks with experts.
std::vector<FakeTensor> tensors_of(int blocks) {
  std::vector<FakeTensor> tensors = {{"model.embed_tokens.weight", {64, 32}}};
  for (int i = 0; i < blocks; ++i) {
    const std::string block = "model.layers." + std::to_string(i) + ".";
    for (const char* part : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                             "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "mlp.experts.0.gate_proj",
                             "mlp.experts.0.down_proj", "mlp.experts.1.up_proj"}) {
      tensors.push_back({block + part + ".weight", {32, 32}});
    }
  }
  return tensors;
}

TEST(LayerClasses, DivideEveryRoleByBlocksAndLeaveExpertsForLast) {
  const HeaderCheckpoint checkpoint(tensors_of(32));
  const LayerClasses classes(*checkpoint);
  std::vector<std::size_t> counts(kLayerClasses);
  std::size_t last_of_others = 0, first_of_experts = kLayerClasses;
  for (const SourceTensor& tensor : checkpoint->tensors()) {
    const std::string module(module_of(tensor.name));
    const std::size_t layer_class = classes.of(module);
    if (module == "model.embed_tokens") {
      EXPECT_EQ(layer_class, kNoLayerClass);
      continue;
    }
    ASSERT_LT(layer_class, kLayerClasses) << module;
    ++counts[layer_class];
    if (layer_role(module) == LayerRole::kExperts) {
      first_of_experts = std::min(first_of_experts, layer_class);
    } else {
      last_of_others = std::max(last_of_others, layer_class);
    }
  }
  for (const std::size_t count : counts) EXPECT_GE(count, 4U) << "an eighth of the blocks";
  EXPECT_LT(last_of_others, first_of_experts);
}

TEST(LayerClasses, HoldWhatEnginesMergeTogether) {
  for (const int blocks : {1, 2, 3, 5, 30}) {
    const HeaderCheckpoint checkpoint(tensors_of(blocks));
    const LayerClasses classes(*checkpoint);
    std::map<std::string, std::size_t> merged;
    for (const SourceTensor& tensor : checkpoint->tensors()) {
      const std::string_view module = module_of(tensor.name);
      const std::string layer = fused_layer_of(module);
      if (layer.empty()) continue;
      const auto [found, added] = merged.emplace(layer, classes.of(module));
      EXPECT_EQ(found->second, classes.of(module)) << module;
    }
    EXPECT_GE(merged.size(), static_cast<std::size_t>(2 * blocks));
  }
}

}  // namespace
}  // namespace halfquad
