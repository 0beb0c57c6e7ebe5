#include <string_view>
#include <utility>

#include <boost/json/array.hpp>

#include "sharding/formats/hqq_keys.h"
#include "sharding/synth_preset.h"

namespace halfquad {
namespace {

using Object = boost::json::object;
using Array = boost::json::array;

struct FamilyNames {
  std::string_view architecture, model_type;
};

FamilyNames names_of(SynthFamily family) {
  switch (family) {
    case SynthFamily::kDeepSeek:
      return {"DeepseekV3ForCausalLM", "deepseek_v3"};
    case SynthFamily::kQwen3Moe:
      return {"Qwen3MoeForCausalLM", "qwen3_moe"};
    case SynthFamily::kGptOss:
      return {"GptOssForCausalLM", "gpt_oss"};
    case SynthFamily::kLlama:
      break;
  }
  return {"LlamaForCausalLM", "llama"};
}

void add_deepseek(const SynthPreset& preset, Object& config) {
  config["first_k_dense_replace"] = preset.experts.dense_layers;
  config["kv_lora_rank"] = preset.narrow.key_value_rank;
  config["moe_intermediate_size"] = preset.experts.intermediate;
  config["n_routed_experts"] = preset.experts.count;
  config["n_shared_experts"] = 1;
  config["num_experts_per_tok"] = preset.experts.per_token;
  config["q_lora_rank"] = preset.narrow.query_rank;
  config["qk_nope_head_dim"] = preset.narrow.head_plain;
  config["qk_rope_head_dim"] = preset.narrow.head_rotated;
  config["v_head_dim"] = preset.narrow.head_value;
  if (!preset.as_published) return;
  config["num_nextn_predict_layers"] = 1;
  config["quantization_config"] = Object{{"activation_scheme", "dynamic"},
                                         {"fmt", "e4m3"},
                                         {"quant_method", "fp8"},
                                         {"weight_block_size", Array{kSynthFp8Block[0], kSynthFp8Block[1]}}};
}

void add_qwen3_moe(const SynthPreset& preset, Object& config) {
  config["decoder_sparse_step"] = 1;
  config["head_dim"] = preset.head_width();
  config["mlp_only_layers"] = Array{};
  config["moe_intermediate_size"] = preset.experts.intermediate;
  config["norm_topk_prob"] = true;
  config["num_experts"] = preset.experts.count;
  config["num_experts_per_tok"] = preset.experts.per_token;
}

void add_gpt_oss(const SynthPreset& preset, Object& config) {
  Array layer_types;
  for (int layer = 0; layer < preset.layers; ++layer) {
    layer_types.emplace_back(layer % 2 == 0 ? "sliding_attention" : "full_attention");
  }
  config["attention_bias"] = true;
  config["experts_per_token"] = preset.experts.per_token;
  config["head_dim"] = preset.head_width();
  config["layer_types"] = std::move(layer_types);
  config["num_experts_per_tok"] = preset.experts.per_token;
  config["num_local_experts"] = preset.experts.count;
  config["quantization_config"] =
      Object{{"modules_to_not_convert",
              Array{"model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"}},
             {"quant_method", "mxfp4"}};
  config["sliding_window"] = 128;
  config["swiglu_limit"] = 7.0;
}

}  // namespace

Object synth_config(const SynthPreset& preset, DType dtype) {
  const FamilyNames names = names_of(preset.family);
  Object config{
      {"architectures", Array{names.architecture}},
      {"attention_bias", false},
      {"bos_token_id", 1},
      {"eos_token_id", 2},
      {"hidden_act", "silu"},
      {"hidden_size", preset.hidden},
      {"initializer_range", 0.02},
      {"intermediate_size", preset.intermediate},
      {"max_position_embeddings", preset.positions},
      {"model_type", names.model_type},
      {"num_attention_heads", preset.heads},
      {"num_hidden_layers", preset.layers},
      {"num_key_value_heads", preset.kv_heads},
      {"rms_norm_eps", preset.norm_eps},
      {"rope_theta", preset.rope_theta},
      {"tie_word_embeddings", false},
      {"torch_dtype", torch_name(dtype)},
      {"use_cache", true},
      {"vocab_size", preset.vocab},
  };
  if (preset.family == SynthFamily::kDeepSeek) add_deepseek(preset, config);
  if (preset.family == SynthFamily::kQwen3Moe) add_qwen3_moe(preset, config);
  if (preset.family == SynthFamily::kGptOss) add_gpt_oss(preset, config);
  return config;
}

}  // namespace halfquad
