#include "sharding/synth_model.h"

#include <algorithm>
#include <array>
#include <utility>

#include <boost/json/array.hpp>
#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/hqq_keys.h"

namespace halfquad {
namespace {

/// What DeepSeek-V3 and its kin have beside a Llama: experts, and attention through narrow projections.
struct Experts {
  int count = 0;  ///< Zero: a Llama.
  int dense_layers = 0;
  std::int64_t intermediate = 0;
};

struct Preset {
  std::string_view name;
  std::int64_t hidden, intermediate;
  int layers, heads, kv_heads;
  std::int64_t vocab;
  std::int64_t positions;
  double rope_theta;
  double norm_eps;
  Experts experts{};
};

constexpr std::array<Preset, 7> kPresets = {{
    {"tiny", 256, 704, 4, 4, 2, 512, 2048, 10000.0, 1e-5},
    {"llama-8b", 4096, 14336, 32, 32, 8, 128256, 8192, 500000.0, 1e-5},
    {"llama-13b", 5120, 13824, 40, 40, 40, 32000, 4096, 10000.0, 1e-5},
    {"llama-70b", 8192, 28672, 80, 64, 8, 32000, 4096, 10000.0, 1e-5},
    {"llama-405b", 16384, 53248, 126, 128, 8, 128256, 131072, 500000.0, 1e-5},
    {"deepseek-671b", 7168, 18432, 61, 128, 128, 129280, 163840, 10000.0, 1e-6, {256, 3, 2048}},
    {"kimi-1t", 7168, 18432, 61, 64, 64, 163840, 131072, 50000.0, 1e-6, {384, 1, 2048}},
}};

// Widths of the narrow projections, the same in both models.
constexpr std::int64_t kQueryRank = 1536, kKeyValueRank = 512;
constexpr std::int64_t kHeadPlain = 128, kHeadRotated = 64, kHeadValue = 128;
constexpr int kExpertsPerToken = 8;

constexpr int kMaxLayers = 10000;

std::string preset_list() {
  std::string names;
  for (const Preset& preset : kPresets) names.append(names.empty() ? "" : ", ").append(preset.name);
  return names;
}

Preset preset_of(const SynthOptions& options) {
  const auto found =
      std::find_if(kPresets.begin(), kPresets.end(), [&](const Preset& p) { return p.name == options.preset; });
  HALFQUAD_REQUIRE(found != kPresets.end(), kUsage,
                   fmt::format("unknown preset {}; known are {}", halfquad::quoted(options.preset), preset_list()));
  HALFQUAD_REQUIRE(options.dtype == DType::kBF16 || options.dtype == DType::kF16 || options.dtype == DType::kF32,
                   kUsage, fmt::format("synthetic weights are BF16, F16 or F32, not {}", name_of(options.dtype)));
  HALFQUAD_REQUIRE(options.shard_bytes > 0, kUsage, "the largest weight file must have room for some bytes, not 0");
  Preset preset = *found;
  preset.layers = options.layers.value_or(preset.layers);
  HALFQUAD_REQUIRE(preset.layers >= 1 && preset.layers <= kMaxLayers, kUsage,
                   fmt::format("{} layers asked for; a synthetic model has 1 to {}", preset.layers, kMaxLayers));
  return preset;
}

/// The tensors of a model, in the order of its state dict; begin and end are set by cut_into_files.
class TensorList {
 public:
  TensorList(const Preset& preset, DType dtype) : preset_(preset), dtype_(dtype) {
    add("model.embed_tokens.weight", {preset.vocab, preset.hidden});
    for (int layer = 0; layer < preset.layers; ++layer) add_layer(layer);
    add("model.norm.weight", {preset.hidden});
    add("lm_head.weight", {preset.vocab, preset.hidden});
  }
  [[nodiscard]] std::vector<TensorEntry> take() && { return std::move(tensors_); }

 private:
  void add(std::string name, std::vector<std::int64_t> shape) {
    tensors_.push_back({.name = std::move(name), .dtype = dtype_, .shape = std::move(shape)});
  }
  void add_layer(int layer) {
    const std::string block = fmt::format("model.layers.{}.", layer);
    const Experts& experts = preset_.experts;
    if (experts.count == 0) {
      add_attention(block + "self_attn.");
    } else {
      add_narrow_attention(block + "self_attn.");
    }
    if (experts.count == 0 || layer < experts.dense_layers) {
      add_mlp(block + "mlp.", preset_.intermediate);
    } else {
      add(block + "mlp.gate.weight", {experts.count, preset_.hidden});
      add(block + "mlp.gate.e_score_correction_bias", {experts.count});
      for (int i = 0; i < experts.count; ++i) add_mlp(fmt::format("{}mlp.experts.{}.", block, i), experts.intermediate);
      add_mlp(block + "mlp.shared_experts.", experts.intermediate);
    }
    add(block + "input_layernorm.weight", {preset_.hidden});
    add(block + "post_attention_layernorm.weight", {preset_.hidden});
  }
  void add_attention(const std::string& prefix) {
    const std::int64_t hidden = preset_.hidden;
    const std::int64_t kv = hidden / preset_.heads * preset_.kv_heads;
    add(prefix + "q_proj.weight", {hidden, hidden});
    add(prefix + "k_proj.weight", {kv, hidden});
    add(prefix + "v_proj.weight", {kv, hidden});
    add(prefix + "o_proj.weight", {hidden, hidden});
  }
  void add_narrow_attention(const std::string& prefix) {
    const std::int64_t hidden = preset_.hidden, heads = preset_.heads;
    add(prefix + "q_a_proj.weight", {kQueryRank, hidden});
    add(prefix + "q_a_layernorm.weight", {kQueryRank});
    add(prefix + "q_b_proj.weight", {heads * (kHeadPlain + kHeadRotated), kQueryRank});
    add(prefix + "kv_a_proj_with_mqa.weight", {kKeyValueRank + kHeadRotated, hidden});
    add(prefix + "kv_a_layernorm.weight", {kKeyValueRank});
    add(prefix + "kv_b_proj.weight", {heads * (kHeadPlain + kHeadValue), kKeyValueRank});
    add(prefix + "o_proj.weight", {hidden, heads * kHeadValue});
  }
  void add_mlp(const std::string& prefix, std::int64_t intermediate) {
    add(prefix + "gate_proj.weight", {intermediate, preset_.hidden});
    add(prefix + "up_proj.weight", {intermediate, preset_.hidden});
    add(prefix + "down_proj.weight", {preset_.hidden, intermediate});
  }

  const Preset& preset_;
  DType dtype_;
  std::vector<TensorEntry> tensors_;
};

std::vector<TensorEntry> tensors_of(const Preset& preset, DType dtype) { return TensorList(preset, dtype).take(); }

std::uint64_t size_of(const TensorEntry& tensor) {
  std::int64_t count = bytes_of(tensor.dtype);
  for (const std::int64_t extent : tensor.shape) count *= extent;
  return static_cast<std::uint64_t>(count);
}

// Greedily in order, a file closed before it would exceed the limit: as huggingface_hub cuts state dicts.
std::vector<std::vector<TensorEntry>> cut_into_files(std::vector<TensorEntry> tensors, std::uint64_t limit) {
  std::vector<std::vector<TensorEntry>> files(1);
  std::uint64_t used = 0;
  for (TensorEntry& tensor : tensors) {
    const std::uint64_t size = size_of(tensor);
    if (!files.back().empty() && (size > limit || used > limit - size)) {
      files.emplace_back();
      used = 0;
    }
    tensor.begin = used;
    tensor.end = used += size;
    files.back().push_back(std::move(tensor));
  }
  return files;
}

std::string file_name(std::size_t index, std::size_t count) {
  if (count == 1) return "model.safetensors";
  return fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, count);
}

boost::json::object config_of(const Preset& preset, DType dtype) {
  const bool llama = preset.experts.count == 0;
  boost::json::object config{
      {"architectures", boost::json::array{llama ? "LlamaForCausalLM" : "DeepseekV3ForCausalLM"}},
      {"attention_bias", false},
      {"bos_token_id", 1},
      {"eos_token_id", 2},
      {"hidden_act", "silu"},
      {"hidden_size", preset.hidden},
      {"initializer_range", 0.02},
      {"intermediate_size", preset.intermediate},
      {"max_position_embeddings", preset.positions},
      {"model_type", llama ? "llama" : "deepseek_v3"},
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
  if (!llama) {
    config["first_k_dense_replace"] = preset.experts.dense_layers;
    config["kv_lora_rank"] = kKeyValueRank;
    config["moe_intermediate_size"] = preset.experts.intermediate;
    config["n_routed_experts"] = preset.experts.count;
    config["n_shared_experts"] = 1;
    config["num_experts_per_tok"] = kExpertsPerToken;
    config["q_lora_rank"] = kQueryRank;
    config["qk_nope_head_dim"] = kHeadPlain;
    config["qk_rope_head_dim"] = kHeadRotated;
    config["v_head_dim"] = kHeadValue;
  }
  return config;
}

boost::json::object index_of(const std::vector<std::vector<TensorEntry>>& files) {
  std::uint64_t total = 0;
  boost::json::object weight_map;
  for (std::size_t i = 0; i < files.size(); ++i) {
    for (const TensorEntry& tensor : files[i]) {
      total += tensor.bytes();
      weight_map[tensor.name] = file_name(i, files.size());
    }
  }
  return {{"metadata", boost::json::object{{"total_size", total}}}, {"weight_map", std::move(weight_map)}};
}

}  // namespace

std::vector<std::string_view> synth_presets() {
  std::vector<std::string_view> names;
  for (const Preset& preset : kPresets) names.push_back(preset.name);
  return names;
}

std::uint64_t synth_bytes(const SynthOptions& options) {
  std::uint64_t total = 0;
  for (const TensorEntry& tensor : tensors_of(preset_of(options), options.dtype)) total += size_of(tensor);
  return total;
}

SynthModel synth_model(const SynthOptions& options) {
  const Preset preset = preset_of(options);
  auto files = cut_into_files(tensors_of(preset, options.dtype), options.shard_bytes);
  SynthModel model;
  model.config = config_of(preset, options.dtype);
  if (files.size() > 1) model.index = index_of(files);
  for (std::size_t i = 0; i < files.size(); ++i) {
    model.files.push_back({file_name(i, files.size()), std::move(files[i])});
  }
  return model;
}

}  // namespace halfquad
