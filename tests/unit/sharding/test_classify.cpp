#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "sharding/rules.h"

namespace halfquad {
namespace {

KeepReason reason(std::string name, std::vector<std::int64_t> shape = {64, 64}, DType dtype = DType::kBF16,
                  std::string_view model_type = "llama") {
  SourceTensor tensor;
  tensor.name = std::move(name);
  tensor.shape = std::move(shape);
  tensor.dtype = dtype;
  return default_keep_reason(tensor, model_type);
}

void expect_all(const std::vector<std::string>& names, KeepReason wanted) {
  for (const std::string& name : names) EXPECT_EQ(describe(reason(name)), describe(wanted)) << name;
}

TEST(DefaultKeepReason, QuantizesLinearLayersOfNumberedBlocks) {
  expect_all(
      {"model.layers.0.self_attn.q_proj.weight", "model.layers.10.mlp.gate_proj.weight",
       "model.layers.3.mlp.experts.17.down_proj.weight", "model.layers.3.mlp.shared_experts.gate_proj.weight",
       "encoder.layer.5.attention.self.query.weight", "bert.encoder.layer.0.output.dense.weight",
       "transformer.h.1.attn.q_proj.weight", "gpt_neox.layers.2.mlp.dense_h_to_4h.weight",
       "model.decoder.layers.4.fc1.weight", "model.layers.61.eh_proj.weight", "block.0.layer.0.SelfAttention.q.weight"},
      KeepReason::kNone);
}

TEST(DefaultKeepReason, KeepsEmbeddings) {
  expect_all({"model.embed_tokens.weight", "embeddings.word_embeddings.weight", "transformer.wte.weight",
              "transformer.wpe.weight", "embeddings.position_embeddings.weight", "shared.weight",
              "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "gpt_neox.embed_in.weight",
              "model.layers.61.embed_tokens.weight"},
             KeepReason::kEmbedding);
}

TEST(DefaultKeepReason, KeepsOutputHeads) {
  expect_all({"lm_head.weight", "embed_out.weight", "score.weight", "classifier.weight", "qa_outputs.weight",
              "cls.predictions.decoder.weight", "model.layers.61.shared_head.head.weight", "lm_heads.0.weight"},
             KeepReason::kHead);
}

TEST(DefaultKeepReason, KeepsNormsOfAnySpelling) {
  expect_all(
      {"model.norm.weight", "model.layers.0.input_layernorm.weight", "h.0.ln_1.weight", "transformer.ln_f.weight",
       "encoder.layer.0.output.LayerNorm.weight", "blocks.0.ln1.weight", "model.layers.0.self_attn.q_norm.weight"},
      KeepReason::kNorm);
}

TEST(DefaultKeepReason, KeepsRoutersButNotGateProjections) {
  expect_all({"model.layers.0.mlp.gate.weight", "model.layers.0.block_sparse_moe.gate.weight",
              "model.layers.0.mlp.shared_expert_gate.weight", "model.layers.0.feed_forward.router.weight",
              "encoder.block.1.layer.1.mlp.router.classifier.weight", "model.layers.0.ffn.router.layer.weight"},
             KeepReason::kRouter);
  EXPECT_EQ(reason("model.layers.0.mlp.gate_proj.weight"), KeepReason::kNone);
}

TEST(DefaultKeepReason, KeepsConvolutions) {
  EXPECT_EQ(reason("backbone.layers.0.mixer.conv1d.weight", {64, 1, 4}), KeepReason::kConvolution);
  EXPECT_EQ(reason("encoder.stages.0.proj.weight", {64, 3, 16, 16}), KeepReason::kConvolution);
  EXPECT_EQ(reason("encoder.layers.0.Conv.weight"), KeepReason::kConvolution);
}

TEST(DefaultKeepReason, KeepsTransposedLinearLayersOfGpt2) {
  for (const std::string model_type : {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}) {
    EXPECT_EQ(reason("h.0.attn.c_attn.weight", {64, 192}, DType::kF32, model_type), KeepReason::kConvolution);
    EXPECT_EQ(reason("h.0.mlp.c_proj.weight", {64, 192}, DType::kF32, model_type), KeepReason::kConvolution);
  }
  EXPECT_EQ(reason("transformer.h.0.attn.c_proj.weight", {64, 192}, DType::kF32, "gpt_bigcode"), KeepReason::kNone);
}

TEST(DefaultKeepReason, KeepsVisionAndAudioTowers) {
  expect_all({"vision_tower.encoder.layers.0.fc1.weight", "vision_model.encoder.layers.0.self_attn.q_proj.weight",
              "model.visual.blocks.0.attn.qkv.weight", "audio_tower.layers.0.fc1.weight",
              "multi_modal_projector.linear_1.weight", "image_newline", "visual.patch_embed.proj.weight",
              "vision_tower.encoder.layers.0.fc1.bias"},
             KeepReason::kVision);
}

TEST(DefaultKeepReason, KeepsWhatIsNoWeight) {
  expect_all({"model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.rotary_emb.inv_freq",
              "model.layers.0.self_attn.sinks"},
             KeepReason::kNotAWeight);
  EXPECT_EQ(reason("model.layers.0.mixer.D.weight", {64}), KeepReason::kNotAWeight);
  EXPECT_EQ(reason("model.layers.0.mlp.experts.gate_up_proj", {8, 64, 64}), KeepReason::kNotAWeight);
  EXPECT_EQ(reason("model.layers.0.moe.input_linear.weight", {8, 64, 64}), KeepReason::kNotAWeight);
}

TEST(DefaultKeepReason, KeepsWhatLiesOutsideBlocks) {
  expect_all({"pooler.dense.weight", "model.connector.proj.weight", "model.layers2.proj.weight"},
             KeepReason::kOutsideBlocks);
}

TEST(DefaultKeepReason, KeepsDtypesItCannotDecode) {
  EXPECT_EQ(reason("model.layers.0.mlp.up_proj.weight", {64, 64}, DType::kF8E4M3), KeepReason::kDtype);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kF64}) {
    EXPECT_EQ(reason("model.layers.0.mlp.up_proj.weight", {64, 64}, dtype), KeepReason::kNone);
  }
}

TEST(ModuleOf, DropsTheWeightSuffixAlone) {
  EXPECT_EQ(module_of("a.b.weight"), "a.b");
  EXPECT_EQ(module_of("a.weight.bias"), "a.weight.bias");
  EXPECT_EQ(module_of("a.weights"), "a.weights");
}

}  // namespace
}  // namespace halfquad
