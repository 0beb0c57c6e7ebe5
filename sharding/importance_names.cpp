#include "sharding/importance_names.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <span>

#include <fmt/format.h>

#include "sharding/formats/gguf_names.h"

namespace halfquad {
namespace {

/// Names that only importance files need: of models that are not written as GGUF, and of all experts at once.
struct OtherName {
  std::string_view source, target;
};
constexpr std::array kOtherNames = {
    OtherName{"self_attn.kv_b_proj", "attn_kv_b"},
    OtherName{"self_attn.out_proj", "attn_output"},
    OtherName{"attention.query_key_value", "attn_qkv"},
    OtherName{"attention.dense", "attn_output"},
    OtherName{"attention.self.query", "attn_q"},
    OtherName{"attention.self.key", "attn_k"},
    OtherName{"attention.self.value", "attn_v"},
    OtherName{"attention.output.dense", "attn_output"},
    OtherName{"intermediate.dense", "ffn_up"},
    OtherName{"output.dense", "ffn_down"},
    OtherName{"mlp.dense_h_to_4h", "ffn_up"},
    OtherName{"mlp.dense_4h_to_h", "ffn_down"},
    OtherName{"mlp.fc1", "ffn_up"},
    OtherName{"mlp.fc2", "ffn_down"},
    OtherName{"mlp.experts.gate_up_proj", "ffn_gate_up_exps"},
    OtherName{"mlp.experts.gate_proj", "ffn_gate_exps"},
    OtherName{"mlp.experts.up_proj", "ffn_up_exps"},
    OtherName{"mlp.experts.down_proj", "ffn_down_exps"},
    OtherName{"mlp.shared_expert.gate_proj", "ffn_gate_shexp"},
    OtherName{"mlp.shared_expert.up_proj", "ffn_up_shexp"},
    OtherName{"mlp.shared_expert.down_proj", "ffn_down_shexp"},
};

/// Layers of a block that take the same inputs.
constexpr std::array<std::string_view, 4> kAttention = {"attn_q", "attn_k", "attn_v", "attn_qkv"};
constexpr std::array<std::string_view, 2> kFeedForward = {"ffn_gate", "ffn_up"};
constexpr std::array<std::string_view, 3> kExperts = {"ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps"};
constexpr std::array<std::string_view, 2> kSharedExperts = {"ffn_gate_shexp", "ffn_up_shexp"};
constexpr std::array<std::span<const std::string_view>, 4> kSameInputs = {kAttention, kFeedForward, kExperts,
                                                                          kSharedExperts};

/// `text` as a number; nothing when it is anything else.
std::optional<std::int64_t> number_of(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

/// What follows `marker` and a number behind it: "layers." in "model.layers.3.mlp.up_proj".
struct InBlock {
  std::int64_t number = 0;
  std::string_view rest;
};
std::optional<InBlock> after_number(std::string_view name, std::string_view marker) {
  for (std::size_t at = name.find(marker); at != name.npos; at = name.find(marker, at + 1)) {
    if (at > 0 && name[at - 1] != '.') continue;
    const std::string_view behind = name.substr(at + marker.size());
    const std::size_t dot = behind.find('.');
    const auto number = number_of(behind.substr(0, dot));
    if (number && dot != behind.npos) return InBlock{*number, behind.substr(dot + 1)};
  }
  return std::nullopt;
}

InputName gguf_name(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  const auto expert = dot == name.npos ? std::nullopt : number_of(name.substr(dot + 1));
  if (!expert) return {std::string(name)};
  std::string layer(name.substr(0, dot));
  if (!layer.ends_with("_exps")) layer += "_exps";
  return {std::move(layer), *expert};
}

bool is_other_tower(std::string_view name) {
  constexpr std::array<std::string_view, 3> kTowers = {"vision", "visual", "audio"};
  return std::ranges::any_of(kTowers, [&](std::string_view tower) { return name.find(tower) != name.npos; });
}

std::string_view target_of(std::string_view source) {
  const auto other = std::ranges::find(kOtherNames, source, &OtherName::source);
  if (other != kOtherNames.end()) return other->target;
  const auto rules = gguf_layer_rules();
  const auto rule = std::ranges::find(rules, source, &GgufNameRule::source);
  return rule == rules.end() ? std::string_view() : rule->target;
}

/// `block`: "<number>.mlp.experts.4.up_proj" of a model of Hugging Face's, taken apart.
std::optional<InputName> name_in_block(const InBlock& block) {
  InputName out;
  std::string key(block.rest);
  constexpr std::string_view kExpertsOf = "experts.";
  if (const auto expert = after_number(block.rest, kExpertsOf)) {
    out.expert = expert->number;
    const auto prefix = static_cast<std::size_t>(block.rest.find(kExpertsOf)) + kExpertsOf.size();
    key = fmt::format("{}*.{}", block.rest.substr(0, prefix), expert->rest);
  }
  // Llama 4 calls its MLPs so.
  constexpr std::string_view kFeedForwardOf = "feed_forward.";
  if (key.starts_with(kFeedForwardOf)) key.replace(0, kFeedForwardOf.size(), "mlp.");
  const std::string_view target = target_of(key);
  if (target.empty()) return std::nullopt;
  out.layer = fmt::format("blk.{}.{}", block.number, target);
  return out;
}

}  // namespace

std::optional<InputName> gguf_input_name(std::string_view name) {
  constexpr std::string_view kWeight = ".weight";
  if (name.ends_with(kWeight)) name.remove_suffix(kWeight.size());
  if (name.starts_with("blk.") || name == "output" || name == "token_embd") return gguf_name(name);
  if (name == "lm_head" || name.ends_with(".lm_head")) return InputName{"output"};
  if (is_other_tower(name)) return std::nullopt;
  if (name.ends_with("embed_tokens")) return InputName{"token_embd"};
  for (const std::string_view marker : {"layers.", "layer.", "h."}) {
    if (const auto block = after_number(name, marker)) return name_in_block(*block);
  }
  return std::nullopt;
}

std::vector<std::string> layers_of_same_inputs(const std::string& layer) {
  std::vector<std::string> out = {layer};
  const std::size_t dot = layer.rfind('.');
  if (dot == layer.npos) return out;
  const std::string_view own = std::string_view(layer).substr(dot + 1);
  for (const auto same : kSameInputs) {
    if (std::ranges::find(same, own) == same.end()) continue;
    for (const std::string_view other : same) {
      if (other != own) out.push_back(layer.substr(0, dot + 1).append(other));
    }
  }
  return out;
}

}  // namespace halfquad
