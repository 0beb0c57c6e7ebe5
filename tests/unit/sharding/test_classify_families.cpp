#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "sharding/rules.h"
#include "tests/unit/sharding/header_checkpoint.h"

namespace halfquad {
namespace {

struct Tensor {
  std::string name;
  KeepReason reason = KeepReason::kNone;
  std::vector<std::int64_t> shape = {64, 64};
};
constexpr KeepReason kQuantized = KeepReason::kNone;

/// Default treatment of a family's tensors, under the names its files hold (experts: as logical_tensors() names them).
void expect_family(const std::vector<Tensor>& tensors, std::string_view model_type) {
  for (const Tensor& tensor : tensors) {
    SourceTensor source;
    source.name = tensor.name;
    source.shape = tensor.shape;
    source.dtype = DType::kBF16;
    EXPECT_EQ(describe(default_keep_reason(source, model_type)), describe(tensor.reason)) << tensor.name;
  }
}

TEST(FamilyDefaults, DeepSeekWithItsPredictionBlock) {
  const std::string block = "model.layers.3.", extra = "model.layers.61.";
  expect_family({{"model.embed_tokens.weight", KeepReason::kEmbedding},
                 {"model.layers.0.mlp.gate_proj.weight"},
                 {block + "self_attn.q_a_proj.weight"},
                 {block + "self_attn.q_a_layernorm.weight", KeepReason::kNorm, {64}},
                 {block + "self_attn.q_b_proj.weight"},
                 {block + "self_attn.kv_a_proj_with_mqa.weight"},
                 {block + "self_attn.kv_a_layernorm.weight", KeepReason::kNorm, {64}},
                 {block + "self_attn.kv_b_proj.weight"},
                 {block + "self_attn.o_proj.weight"},
                 {block + "mlp.gate.weight", KeepReason::kRouter},
                 {block + "mlp.gate.e_score_correction_bias", KeepReason::kNotAWeight, {256}},
                 {block + "mlp.experts.255.down_proj.weight"},
                 {block + "mlp.shared_experts.up_proj.weight"},
                 {block + "post_attention_layernorm.weight", KeepReason::kNorm, {64}},
                 {extra + "embed_tokens.weight", KeepReason::kEmbedding},
                 {extra + "enorm.weight", KeepReason::kNorm, {64}},
                 {extra + "hnorm.weight", KeepReason::kNorm, {64}},
                 {extra + "eh_proj.weight", kQuantized, {64, 128}},
                 {extra + "mlp.gate.weight", KeepReason::kRouter},
                 {extra + "mlp.experts.0.gate_proj.weight"},
                 {extra + "shared_head.norm.weight", KeepReason::kNorm, {64}},
                 {extra + "shared_head.head.weight", KeepReason::kHead},
                 {"model.norm.weight", KeepReason::kNorm, {64}},
                 {"lm_head.weight", KeepReason::kHead}},
                "deepseek_v3");
}

TEST(FamilyDefaults, Qwen3MoeAndQwen3NextWithItsPredictionBlock) {
  const std::string block = "model.layers.0.";
  expect_family({{block + "self_attn.q_proj.weight"},
                 {block + "self_attn.q_norm.weight", KeepReason::kNorm, {64}},
                 {block + "mlp.gate.weight", KeepReason::kRouter},
                 {block + "mlp.experts.127.gate_proj.weight"},
                 {block + "mlp.shared_expert_gate.weight", KeepReason::kRouter, {1, 64}},
                 {block + "mlp.shared_expert.down_proj.weight"},
                 {block + "linear_attn.in_proj_qkvz.weight"},
                 {block + "linear_attn.conv1d.weight", KeepReason::kConvolution, {64, 1, 4}},
                 {block + "linear_attn.A_log", KeepReason::kNotAWeight, {64}},
                 {block + "linear_attn.norm.weight", KeepReason::kNorm, {64}},
                 {"mtp.fc.weight", KeepReason::kOutsideBlocks},
                 {"mtp.layers.0.mlp.experts.3.up_proj.weight"},
                 {"mtp.pre_fc_norm_hidden.weight", KeepReason::kNorm, {64}}},
                "qwen3_next");
}

TEST(FamilyDefaults, GptOss) {
  const std::string block = "model.layers.0.";
  expect_family({{block + "self_attn.q_proj.weight"},
                 {block + "self_attn.q_proj.bias", KeepReason::kNotAWeight, {64}},
                 {block + "self_attn.sinks", KeepReason::kNotAWeight, {64}},
                 {block + "mlp.router.weight", KeepReason::kRouter},
                 {block + "mlp.router.bias", KeepReason::kNotAWeight, {32}},
                 {block + "mlp.experts.gate_up_proj_bias", KeepReason::kNotAWeight},
                 {block + "mlp.experts.31.gate_proj.weight"},
                 {block + "mlp.experts.31.down_proj.weight"}},
                "gpt_oss");
}

TEST(FamilyDefaults, Llama4) {
  const std::string block = "language_model.model.layers.1.";
  expect_family({{block + "self_attn.q_proj.weight"},
                 {block + "feed_forward.router.weight", KeepReason::kRouter},
                 {block + "feed_forward.experts.15.up_proj.weight"},
                 {block + "feed_forward.shared_expert.gate_proj.weight"},
                 {"language_model.model.embed_tokens.weight", KeepReason::kEmbedding},
                 {"multi_modal_projector.linear_1.weight", KeepReason::kVision},
                 {"vision_model.model.layers.0.mlp.fc1.weight", KeepReason::kVision},
                 {"vision_model.patch_embedding.linear.weight", KeepReason::kVision}},
                "llama4");
}

TEST(FamilyDefaults, KimiWithItsVisionTower) {
  expect_family({{"language_model.model.layers.1.mlp.experts.383.down_proj.weight"},
                 {"language_model.model.layers.1.mlp.gate.weight", KeepReason::kRouter},
                 {"language_model.lm_head.weight", KeepReason::kHead},
                 {"vision_tower.encoder.blocks.0.wqkv.weight", KeepReason::kVision},
                 {"mm_projector.proj.0.weight", KeepReason::kVision}},
                "kimi_k25");
}

TEST(FamilyDefaults, OtherMixturesOfExperts) {
  expect_family({{"model.layers.0.block_sparse_moe.gate.weight", KeepReason::kRouter},
                 {"model.layers.0.block_sparse_moe.experts.7.w2.weight"},
                 {"model.layers.0.mlp.gate.wg.weight", KeepReason::kRouter},
                 {"model.layers.46.eh_proj.weight"},
                 {"model.layers.46.shared_head.head.weight", KeepReason::kHead},
                 {"model.mtp_layers.0.input_proj.weight"}},
                "mixtral");
}

TEST(FamilyDefaults, EncodersWhoseBlocksAreNotUnderModelLayers) {
  expect_family({{"vit.embeddings.cls_token", KeepReason::kNotAWeight, {1, 1, 64}},
                 {"vit.embeddings.patch_embeddings.projection.weight", KeepReason::kVision, {64, 3, 16, 16}},
                 {"vit.encoder.layer.0.attention.attention.query.weight"},
                 {"vit.encoder.layer.0.intermediate.dense.weight"},
                 {"vit.encoder.layer.0.layernorm_before.weight", KeepReason::kNorm, {64}},
                 {"vit.pooler.dense.weight", KeepReason::kOutsideBlocks},
                 {"classifier.weight", KeepReason::kHead},
                 {"blocks.0.attn.qkv.weight"},
                 {"blocks.0.mlp.fc1.weight"},
                 {"patch_embed.proj.weight", KeepReason::kVision, {64, 3, 16, 16}},
                 {"head.weight", KeepReason::kHead},
                 {"text_model.encoder.layers.0.self_attn.q_proj.weight"},
                 {"text_model.embeddings.token_embedding.weight", KeepReason::kEmbedding},
                 {"vision_model.encoder.layers.0.self_attn.q_proj.weight", KeepReason::kVision},
                 {"visual_projection.weight", KeepReason::kVision},
                 {"text_projection.weight", KeepReason::kOutsideBlocks},
                 {"bert.encoder.layer.0.attention.self.query.weight"},
                 {"distilbert.transformer.layer.0.attention.q_lin.weight"},
                 {"model.encoder.layers.0.fc1.weight"},
                 {"model.encoder.conv1.weight", KeepReason::kConvolution, {64, 80, 3}},
                 {"model.decoder.embed_positions.weight", KeepReason::kEmbedding}},
                "clip");
}

TEST(FamilyDefaults, RulesQuantizeTowersAndLayersOutsideBlocks) {
  const HeaderCheckpoint checkpoint({{"vision_model.encoder.layers.0.self_attn.q_proj.weight", {64, 64}},
                                     {"vision_model.encoder.layers.0.self_attn.q_proj.bias", {64}},
                                     {"vision_model.embeddings.patch_embedding.weight", {64, 3, 16, 16}},
                                     {"visual_projection.weight", {64, 64}},
                                     {"mtp.fc.weight", {64, 128}}},
                                    R"({"model_type": "clip"})");
  Recipe recipe;
  for (const std::string pattern : {"vision_model\\.", "^visual_projection", "mtp\\.fc"}) {
    recipe.rules.push_back({pattern, {}});
  }

  for (const Decision& decision : decide(*checkpoint, recipe)) {
    const SourceTensor& tensor = checkpoint->tensors()[decision.source];
    EXPECT_EQ(decision.quantize(), tensor.shape.size() == 2) << tensor.name;
  }
}

}  // namespace
}  // namespace halfquad
