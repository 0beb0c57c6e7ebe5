#include "sharding/formats/gguf_names.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

struct ModelClass {
  std::string_view name;
  GgufFamily family;
};

constexpr std::array kClasses = {
    ModelClass{"LlamaForCausalLM", GgufFamily::kLlama},
    ModelClass{"MistralForCausalLM", GgufFamily::kLlama},
    ModelClass{"MixtralForCausalLM", GgufFamily::kMixtral},
    ModelClass{"Qwen2ForCausalLM", GgufFamily::kQwen2},
    ModelClass{"Qwen3ForCausalLM", GgufFamily::kQwen3},
    ModelClass{"Qwen3MoeForCausalLM", GgufFamily::kQwen3Moe},
    ModelClass{"Gemma2ForCausalLM", GgufFamily::kGemma2},
    ModelClass{"Gemma3ForCausalLM", GgufFamily::kGemma3},
    ModelClass{"Gemma3ForConditionalGeneration", GgufFamily::kGemma3},
    ModelClass{"Phi3ForCausalLM", GgufFamily::kPhi3},
    ModelClass{"DeepseekV2ForCausalLM", GgufFamily::kDeepseek2},
    ModelClass{"DeepseekV3ForCausalLM", GgufFamily::kDeepseek2},
};

template <class... Families>
constexpr std::uint32_t any_of(Families... families) {
  return (static_cast<std::uint32_t>(families) | ...);
}

using F = GgufFamily;
using R = GgufRole;
using N = GgufNeed;

constexpr std::uint32_t kAll =
    any_of(F::kLlama, F::kMixtral, F::kQwen2, F::kQwen3, F::kQwen3Moe, F::kGemma2, F::kGemma3, F::kPhi3, F::kDeepseek2);
constexpr std::uint32_t kRotated = any_of(F::kLlama, F::kMixtral);
constexpr std::uint32_t kPlainQkv = any_of(F::kQwen2, F::kQwen3, F::kQwen3Moe, F::kGemma2, F::kGemma3);
constexpr std::uint32_t kGemma = any_of(F::kGemma2, F::kGemma3);
constexpr std::uint32_t kQkNorm = any_of(F::kQwen3, F::kQwen3Moe, F::kGemma3);
constexpr std::uint32_t kDense = any_of(F::kLlama, F::kQwen2, F::kQwen3, F::kGemma2, F::kGemma3, F::kDeepseek2);
constexpr std::uint32_t kMoe = any_of(F::kQwen3Moe, F::kDeepseek2);
constexpr std::uint32_t kMixtral = any_of(F::kMixtral);
constexpr std::uint32_t kDeepseek = any_of(F::kDeepseek2);
constexpr std::uint32_t kPhi = any_of(F::kPhi3);

constexpr std::array kLayerRules = {
    GgufNameRule{"input_layernorm", "attn_norm", R::kNorm, N::kAlways, kAll, false},
    GgufNameRule{"self_attn.q_proj", "attn_q", R::kRopeQuery, N::kAlways, kRotated, true},
    GgufNameRule{"self_attn.k_proj", "attn_k", R::kRopeKey, N::kAlways, kRotated, true},
    GgufNameRule{"self_attn.v_proj", "attn_v", R::kLinear, N::kAlways, kRotated | kPlainQkv, true},
    GgufNameRule{"self_attn.q_proj", "attn_q", R::kLinear, N::kAlways, kPlainQkv, true},
    GgufNameRule{"self_attn.k_proj", "attn_k", R::kLinear, N::kAlways, kPlainQkv, true},
    GgufNameRule{"self_attn.o_proj", "attn_output", R::kLinear, N::kAlways, kRotated, true},
    GgufNameRule{"self_attn.o_proj", "attn_output", R::kLinear, N::kAlways, kPlainQkv | kPhi | kDeepseek, false},
    GgufNameRule{"self_attn.qkv_proj", "attn_qkv", R::kLinear, N::kAlways, kPhi, true},
    GgufNameRule{"self_attn.q_norm", "attn_q_norm", R::kNorm, N::kAlways, kQkNorm, false},
    GgufNameRule{"self_attn.k_norm", "attn_k_norm", R::kNorm, N::kAlways, kQkNorm, false},
    GgufNameRule{"self_attn.q_proj", "attn_q", R::kLinear, N::kNoQueryLora, kDeepseek, false},
    GgufNameRule{"self_attn.q_a_proj", "attn_q_a", R::kLinear, N::kQueryLora, kDeepseek, false},
    GgufNameRule{"self_attn.q_a_layernorm", "attn_q_a_norm", R::kNorm, N::kQueryLora, kDeepseek, false},
    GgufNameRule{"self_attn.q_b_proj", "attn_q_b", R::kLinear, N::kQueryLora, kDeepseek, false},
    GgufNameRule{"self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa", R::kLinear, N::kAlways, kDeepseek, false},
    GgufNameRule{"self_attn.kv_a_layernorm", "attn_kv_a_norm", R::kNorm, N::kAlways, kDeepseek, false},
    GgufNameRule{"self_attn.kv_b_proj", "attn_k_b", R::kKeyValueB, N::kAlways, kDeepseek, false},
    GgufNameRule{"post_attention_layernorm", "ffn_norm", R::kNorm, N::kAlways, kAll & ~kGemma, false},
    GgufNameRule{"post_attention_layernorm", "post_attention_norm", R::kNorm, N::kAlways, kGemma, false},
    GgufNameRule{"pre_feedforward_layernorm", "ffn_norm", R::kNorm, N::kAlways, kGemma, false},
    GgufNameRule{"post_feedforward_layernorm", "post_ffw_norm", R::kNorm, N::kAlways, kGemma, false},
    GgufNameRule{"mlp.gate_proj", "ffn_gate", R::kLinear, N::kDenseLayers, any_of(F::kLlama), true},
    GgufNameRule{"mlp.up_proj", "ffn_up", R::kLinear, N::kDenseLayers, any_of(F::kLlama), true},
    GgufNameRule{"mlp.down_proj", "ffn_down", R::kLinear, N::kDenseLayers, any_of(F::kLlama), true},
    GgufNameRule{"mlp.gate_proj", "ffn_gate", R::kLinear, N::kDenseLayers, kDense, false},
    GgufNameRule{"mlp.up_proj", "ffn_up", R::kLinear, N::kDenseLayers, kDense, false},
    GgufNameRule{"mlp.gate_up_proj", "ffn_up", R::kLinear, N::kDenseLayers, kPhi, false},
    GgufNameRule{"mlp.down_proj", "ffn_down", R::kLinear, N::kDenseLayers, kDense | kPhi, false},
    GgufNameRule{"mlp.gate", "ffn_gate_inp", R::kRouter, N::kExpertLayers, kMoe, false},
    GgufNameRule{"mlp.gate.e_score_correction_bias", "exp_probs_b.bias", R::kRouter, N::kOptional, kDeepseek, false},
    GgufNameRule{"mlp.experts.*.gate_proj", "ffn_gate_exps", R::kExpert, N::kExpertLayers, kMoe, false},
    GgufNameRule{"mlp.experts.*.up_proj", "ffn_up_exps", R::kExpert, N::kExpertLayers, kMoe, false},
    GgufNameRule{"mlp.experts.*.down_proj", "ffn_down_exps", R::kExpert, N::kExpertLayers, kMoe, false},
    GgufNameRule{"mlp.shared_experts.gate_proj", "ffn_gate_shexp", R::kLinear, N::kExpertLayers, kDeepseek, false},
    GgufNameRule{"mlp.shared_experts.up_proj", "ffn_up_shexp", R::kLinear, N::kExpertLayers, kDeepseek, false},
    GgufNameRule{"mlp.shared_experts.down_proj", "ffn_down_shexp", R::kLinear, N::kExpertLayers, kDeepseek, false},
    GgufNameRule{"block_sparse_moe.gate", "ffn_gate_inp", R::kRouter, N::kExpertLayers, kMixtral, false},
    GgufNameRule{"block_sparse_moe.experts.*.w1", "ffn_gate_exps", R::kExpert, N::kExpertLayers, kMixtral, false},
    GgufNameRule{"block_sparse_moe.experts.*.w2", "ffn_down_exps", R::kExpert, N::kExpertLayers, kMixtral, false},
    GgufNameRule{"block_sparse_moe.experts.*.w3", "ffn_up_exps", R::kExpert, N::kExpertLayers, kMixtral, false},
};

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kBias = ".bias";

/// The number at the front of `text`, which it and the dot behind it leave; -1 when there is none.
std::int64_t take_number(std::string_view& text) {
  std::int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const auto digits = static_cast<std::size_t>(end - text.data());
  if (error != std::errc() || digits == 0 || text.front() == '-' || digits >= text.size() || text[digits] != '.')
    return -1;
  text.remove_prefix(digits + 1);
  return value;
}

bool take_prefix(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

/// `name` as the text model alone would call it. Models with a vision tower put the text model below another name.
std::string text_model_name(std::string_view name) {
  constexpr std::string_view kLanguageModel = "language_model.";
  std::string out(name);
  const std::size_t at = out.find(kLanguageModel);
  if (at != std::string::npos) out.erase(at, kLanguageModel.size());
  return out;
}

bool is_vision(std::string_view name) {
  constexpr std::array<std::string_view, 3> kPrefixes = {"vision_tower.", "multi_modal_projector.", "vision_model."};
  static_cast<void>(take_prefix(name, "model."));
  return std::ranges::any_of(kPrefixes, [&](std::string_view prefix) { return name.starts_with(prefix); });
}

std::optional<GgufSourceName> name_outside_layers(GgufFamily family, std::string_view name) {
  GgufSourceName out;
  out.role = R::kEmbedding;
  if (name == "model.embed_tokens.weight") {
    out.target = "token_embd.weight";
  } else if (name == "model.norm.weight") {
    out.role = R::kNorm;
    out.target = "output_norm.weight";
  } else if (name == "lm_head.weight") {
    out.target = "output.weight";
    if (family == F::kGemma2) out.dropped = "llama.cpp takes the token embeddings as this model's output head";
  } else if (name == "lm_head.bias" && family == F::kQwen2) {
    out.target = "output.bias";
    out.is_bias = true;
  } else {
    return std::nullopt;
  }
  return out;
}

const GgufNameRule* find_rule(GgufFamily family, std::string_view source, bool bias) {
  const auto found = std::ranges::find_if(kLayerRules, [&](const GgufNameRule& rule) {
    return rule.source == source && rule.is_for(family) && (!bias || rule.bias);
  });
  return found == kLayerRules.end() ? nullptr : &*found;
}

/// `rest` is what follows "model.layers.".
std::optional<GgufSourceName> name_inside_layer(GgufFamily family, std::string_view rest, std::int64_t layers) {
  GgufSourceName out;
  out.layer = take_number(rest);
  if (out.layer < 0) return std::nullopt;
  if (rest == "self_attn.rotary_emb.inv_freq") {
    out.dropped = "llama.cpp computes the frequencies of rotary embeddings itself";
    return out;
  }
  if (out.layer >= layers) {
    if (family != F::kDeepseek2) return std::nullopt;
    out.dropped = "llama.cpp's converter leaves this model's blocks for multi-token prediction out";
    return out;
  }
  std::string_view suffix;
  if (rest.ends_with(kWeight)) suffix = kWeight;
  if (rest.ends_with(kBias)) suffix = kBias;
  rest.remove_suffix(suffix.size());
  std::string key(rest);
  if (const std::size_t at = key.find(".experts."); at != std::string::npos) {
    std::string_view behind = rest.substr(at + std::string_view(".experts.").size());
    out.expert = take_number(behind);
    if (out.expert < 0) return std::nullopt;
    key = fmt::format("{}.experts.*.{}", rest.substr(0, at), behind);
  }
  out.is_bias = suffix == kBias;
  out.rule = find_rule(family, key, out.is_bias);
  // Only the correction of the experts' scores has no ending of its own.
  if (out.rule == nullptr || suffix.empty() != out.rule->target.ends_with(kBias)) return std::nullopt;
  out.role = out.rule->role;
  out.target = fmt::format("blk.{}.{}{}", out.layer, out.rule->target, suffix);
  return out;
}

}  // namespace

GgufFamily gguf_family(std::string_view model_class) {
  const auto found = std::ranges::find(kClasses, model_class, &ModelClass::name);
  if (found != kClasses.end()) return found->family;
  std::vector<std::string_view> names;
  for (const ModelClass& known : kClasses) names.push_back(known.name);
  throw Error(ErrorCode::kBadInput, fmt::format("models of class {} cannot be written as GGUF; supported are {}",
                                                quoted(model_class), fmt::join(names, ", ")));
}

std::string_view gguf_architecture(GgufFamily family) {
  switch (family) {
    case F::kLlama:
    case F::kMixtral:
      return "llama";
    case F::kQwen2:
      return "qwen2";
    case F::kQwen3:
      return "qwen3";
    case F::kQwen3Moe:
      return "qwen3moe";
    case F::kGemma2:
      return "gemma2";
    case F::kGemma3:
      return "gemma3";
    case F::kPhi3:
      return "phi3";
    case F::kDeepseek2:
      return "deepseek2";
  }
  throw Error(ErrorCode::kInternal, "a GGUF family without a name");
}

std::span<const GgufNameRule> gguf_layer_rules() { return kLayerRules; }

std::optional<GgufSourceName> gguf_source_name(GgufFamily family, std::string_view name, std::int64_t layers) {
  const std::string plain = family == F::kGemma3 ? text_model_name(name) : std::string(name);
  if (family == F::kGemma3 && is_vision(plain)) {
    GgufSourceName out;
    out.dropped = "llama.cpp keeps vision towers in a file of their own";
    return out;
  }
  if (plain == "model.rotary_emb.inv_freq") {
    GgufSourceName out;
    out.dropped = "llama.cpp computes the frequencies of rotary embeddings itself";
    return out;
  }
  std::string_view rest = plain;
  if (take_prefix(rest, "model.layers.")) return name_inside_layer(family, rest, layers);
  return name_outside_layers(family, plain);
}

}  // namespace halfquad
