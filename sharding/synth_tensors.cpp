#include <string>
#include <utility>

#include <fmt/format.h>

#include "runtime/checked.h"
#include "sharding/synth_preset.h"

namespace halfquad {
namespace {

using Shape = std::vector<std::int64_t>;

class TensorList {
 public:
  TensorList(const SynthPreset& preset, DType dtype) : preset_(preset), dtype_(dtype) {
    add("model.embed_tokens.weight", {preset.vocab, preset.hidden});
    for (int layer = 0; layer < preset.layers; ++layer) add_layer(layer);
    if (preset.as_published) add_prediction_layer(preset.layers);
    add("model.norm.weight", {preset.hidden});
    add("lm_head.weight", {preset.vocab, preset.hidden});
  }
  [[nodiscard]] std::vector<TensorEntry> take() && { return std::move(tensors_); }

 private:
  void add(std::string name, Shape shape) { add(std::move(name), std::move(shape), dtype_); }
  void add(std::string name, Shape shape, DType dtype) {
    tensors_.push_back({.name = std::move(name), .dtype = dtype, .shape = std::move(shape)});
  }
  /// A linear layer, in FP8 where the model is published so.
  void add_linear(const std::string& module, std::int64_t rows, std::int64_t cols) {
    if (!preset_.as_published) {
      add(module + ".weight", {rows, cols});
      return;
    }
    add(module + ".weight", {rows, cols}, DType::kF8E4M3);
    add(module + ".weight_scale_inv", {ceil_div(rows, kSynthFp8Block[0]), ceil_div(cols, kSynthFp8Block[1])},
        DType::kF32);
  }

  void add_layer(int layer) {
    const std::string block = fmt::format("model.layers.{}.", layer);
    add_attention(block + "self_attn.");
    const bool is_dense = preset_.experts.count == 0 || layer < preset_.experts.dense_layers;
    if (is_dense) {
      add_mlp(block + "mlp.", preset_.intermediate);
    } else if (preset_.family == SynthFamily::kGptOss) {
      add_mxfp4_experts(block + "mlp.");
    } else {
      add_experts(block + "mlp.");
    }
    add(block + "input_layernorm.weight", {preset_.hidden});
    add(block + "post_attention_layernorm.weight", {preset_.hidden});
  }

  /// DeepSeek's block that predicts the token after the next: it follows the last layer and has its own embedding.
  void add_prediction_layer(int layer) {
    const std::string block = fmt::format("model.layers.{}.", layer);
    add(block + "embed_tokens.weight", {preset_.vocab, preset_.hidden});
    add(block + "enorm.weight", {preset_.hidden});
    add(block + "hnorm.weight", {preset_.hidden});
    add(block + "eh_proj.weight", {preset_.hidden, 2 * preset_.hidden});
    add_attention(block + "self_attn.");
    add_experts(block + "mlp.");
    add(block + "input_layernorm.weight", {preset_.hidden});
    add(block + "post_attention_layernorm.weight", {preset_.hidden});
    add(block + "shared_head.norm.weight", {preset_.hidden});
    add(block + "shared_head.head.weight", {preset_.vocab, preset_.hidden});
  }

  void add_attention(const std::string& prefix) {
    if (preset_.family == SynthFamily::kDeepSeek) {
      add_narrow_attention(prefix);
      return;
    }
    const std::int64_t hidden = preset_.hidden;
    const std::int64_t query = preset_.heads * preset_.head_width(), kv = preset_.kv_heads * preset_.head_width();
    add_projection(prefix + "q_proj", query, hidden);
    add_projection(prefix + "k_proj", kv, hidden);
    add_projection(prefix + "v_proj", kv, hidden);
    add_projection(prefix + "o_proj", hidden, query);
    if (preset_.family == SynthFamily::kQwen3Moe) {
      add(prefix + "q_norm.weight", {preset_.head_width()});
      add(prefix + "k_norm.weight", {preset_.head_width()});
    } else if (preset_.family == SynthFamily::kGptOss) {
      add(prefix + "sinks", {preset_.heads});
    }
  }
  void add_projection(const std::string& module, std::int64_t rows, std::int64_t cols) {
    add_linear(module, rows, cols);
    if (preset_.family == SynthFamily::kGptOss) add(module + ".bias", {rows});
  }
  void add_narrow_attention(const std::string& prefix) {
    const std::int64_t hidden = preset_.hidden, heads = preset_.heads;
    const SynthNarrow& narrow = preset_.narrow;
    add_linear(prefix + "q_a_proj", narrow.query_rank, hidden);
    add(prefix + "q_a_layernorm.weight", {narrow.query_rank});
    add_linear(prefix + "q_b_proj", heads * (narrow.head_plain + narrow.head_rotated), narrow.query_rank);
    add_linear(prefix + "kv_a_proj_with_mqa", narrow.key_value_rank + narrow.head_rotated, hidden);
    add(prefix + "kv_a_layernorm.weight", {narrow.key_value_rank});
    add_linear(prefix + "kv_b_proj", heads * (narrow.head_plain + narrow.head_value), narrow.key_value_rank);
    add_linear(prefix + "o_proj", hidden, heads * narrow.head_value);
  }

  void add_mlp(const std::string& prefix, std::int64_t intermediate) {
    add_linear(prefix + "gate_proj", intermediate, preset_.hidden);
    add_linear(prefix + "up_proj", intermediate, preset_.hidden);
    add_linear(prefix + "down_proj", preset_.hidden, intermediate);
  }
  void add_experts(const std::string& prefix) {
    const SynthExperts& experts = preset_.experts;
    add(prefix + "gate.weight", {experts.count, preset_.hidden});
    const bool deepseek = preset_.family == SynthFamily::kDeepSeek;
    if (deepseek) add(prefix + "gate.e_score_correction_bias", {experts.count});
    for (int i = 0; i < experts.count; ++i) add_mlp(fmt::format("{}experts.{}.", prefix, i), experts.intermediate);
    if (deepseek) add_mlp(prefix + "shared_experts.", experts.intermediate);
  }
  void add_mxfp4_experts(const std::string& prefix) {
    const SynthExperts& experts = preset_.experts;
    add(prefix + "router.weight", {experts.count, preset_.hidden});
    add(prefix + "router.bias", {experts.count});
    add_mxfp4(prefix + "experts.gate_up_proj", 2 * experts.intermediate, preset_.hidden);
    add_mxfp4(prefix + "experts.down_proj", preset_.hidden, experts.intermediate);
  }
  void add_mxfp4(const std::string& name, std::int64_t rows, std::int64_t cols) {
    add(name + "_blocks", {preset_.experts.count, rows, cols / 32, 16}, DType::kU8);
    add(name + "_scales", {preset_.experts.count, rows, cols / 32}, DType::kU8);
    add(name + "_bias", {preset_.experts.count, rows});
  }

  const SynthPreset& preset_;
  DType dtype_;
  std::vector<TensorEntry> tensors_;
};

}  // namespace

std::vector<TensorEntry> synth_tensors(const SynthPreset& preset, DType dtype) {
  return TensorList(preset, dtype).take();
}

}  // namespace halfquad
