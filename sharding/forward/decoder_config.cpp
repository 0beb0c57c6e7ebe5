#include "sharding/forward/decoder_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <string_view>

#include <boost/json/array.hpp>
#include <fmt/format.h>

#include "kernels/portable_math.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/formats/gguf_config.h"

namespace halfquad {
namespace {

namespace json = boost::json;

/// What a family has that config.json does not say.
struct Family {
  std::string_view model_type;
  bool is_gemma = false;  ///< Norms add one, embeddings are scaled, GELU.
  bool has_post_norms = false;
  bool always_normalizes = false;
  double theta = 10'000;  ///< When config.json has none, like the next ones.
  std::int64_t head_size = 0;
  std::int64_t local_pattern = 0;  ///< Every so many layers one is not local.
};
constexpr std::array kFamilies = {
    Family{.model_type = "llama"},
    Family{.model_type = "mistral"},
    Family{.model_type = "mixtral", .always_normalizes = true, .theta = 1'000'000},
    Family{.model_type = "qwen2"},
    Family{.model_type = "qwen2_moe"},
    Family{.model_type = "qwen3"},
    Family{.model_type = "qwen3_moe"},
    Family{.model_type = "phi3"},
    Family{.model_type = "gemma", .is_gemma = true, .head_size = 256},
    Family{.model_type = "gemma2", .is_gemma = true, .has_post_norms = true, .head_size = 256},
    Family{.model_type = "gemma3",
           .is_gemma = true,
           .has_post_norms = true,
           .theta = 1'000'000,
           .head_size = 256,
           .local_pattern = 6},
    Family{.model_type = "gemma3_text",
           .is_gemma = true,
           .has_post_norms = true,
           .theta = 1'000'000,
           .head_size = 256,
           .local_pattern = 6},
};

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}; quantize with --importance weights, which needs no forward pass", what));
}

const Family& family_of(const GgufConfig& config) {
  const std::string type = config.text({"model_type"}).value_or("");
  const auto found = std::ranges::find(kFamilies, type, &Family::model_type);
  if (found != kFamilies.end()) return *found;
  std::string known;
  for (const Family& family : kFamilies) known += fmt::format("{}{}", known.empty() ? "" : ", ", family.model_type);
  refuse(fmt::format("config.json: no forward pass is known for model_type {} (known are {})", quoted(type), known));
}

std::int64_t need(const GgufConfig& config, std::string_view name) {
  const std::optional<std::int64_t> value = config.integer({name});
  HALFQUAD_REQUIRE(value && *value > 0, kBadInput,
                   fmt::format("config.json: {} is missing or 0, and the forward pass needs it", quoted(name)));
  return *value;
}

GateFunction gate_of(const GgufConfig& config, const Family& family) {
  const std::string name =
      family.is_gemma ? config.text({"hidden_activation"}).value_or("gelu_pytorch_tanh")  // as transformers does
                      : config.text({"hidden_act"}).value_or("silu");
  if (name == "silu") return GateFunction::kSilu;
  if (name == "gelu_pytorch_tanh") return GateFunction::kGeluTanh;
  refuse(fmt::format("config.json: the forward pass knows no activation {}", quoted(name)));
}

/// theta^(-2i/count) for the pairs of `count` rotated elements.
RopeTurns plain_turns(double theta, std::int64_t count) {
  RopeTurns turns;
  for (std::int64_t i = 0; i < count / 2; ++i) {
    turns.inverse_frequencies.push_back(portable::pow(theta, -2 * static_cast<double>(i) / static_cast<double>(count)));
  }
  return turns;
}

/// Llama 3's: long waves are stretched, short ones are not, those between are interpolated.
void stretch_llama3(RopeTurns& turns, const GgufRope& rope, const GgufConfig& config) {
  const double factor = rope.number("factor").value_or(8);
  const double low = rope.number("low_freq_factor").value_or(1);
  const double high = rope.number("high_freq_factor").value_or(4);
  const auto context = static_cast<double>(rope.original_context(config));
  for (double& frequency : turns.inverse_frequencies) {
    const double wave = 2 * std::numbers::pi / frequency;
    if (wave < context / high) continue;
    const double smooth = wave > context / low ? 0 : (context / wave - low) / (high - low);
    frequency = (1 - smooth) * frequency / factor + smooth * frequency;
  }
}

/// Phi-3's factors for sequences within the original context.
void divide_longrope(RopeTurns& turns, const GgufRope& rope, const GgufConfig& config) {
  const std::vector<float> factors = rope.numbers("short_factor");
  HALFQUAD_REQUIRE(factors.size() == turns.inverse_frequencies.size(), kBadInput,
                   fmt::format("config.json: \"short_factor\" has {} numbers and not {}", factors.size(),
                               turns.inverse_frequencies.size()));
  for (std::size_t i = 0; i < factors.size(); ++i) turns.inverse_frequencies[i] /= double{factors[i]};
  const auto original = static_cast<double>(rope.original_context(config));
  const auto longest = static_cast<double>(config.integer({"max_position_embeddings"}).value_or(0));
  const double factor = rope.number("factor").value_or(longest / original);
  const double computed = factor <= 1 ? 1 : std::sqrt(1 + portable::log(factor) / portable::log(original));
  turns.scale = rope.number("attention_factor").value_or(computed);
}

void read_rope(DecoderConfig& decoder, const GgufConfig& config, const Family& family) {
  const GgufRope rope(config);
  const std::optional<double> part = rope.number("partial_rotary_factor");
  const double rotated = part.value_or(config.number({"partial_rotary_factor"}).value_or(1));
  const auto count = static_cast<std::int64_t>(static_cast<double>(decoder.head_size) * rotated) / 2 * 2;
  HALFQUAD_REQUIRE(count > 0 && count <= decoder.head_size, kBadInput,
                   "config.json: \"partial_rotary_factor\" is not between 0 and 1");
  const double theta = rope.theta.value_or(family.theta);
  HALFQUAD_REQUIRE(theta >= 1 && std::isfinite(theta), kBadInput, "config.json: \"rope_theta\" is below 1");
  decoder.rope = plain_turns(theta, count);
  decoder.local_rope = family.local_pattern > 0 ? plain_turns(rope.local_theta.value_or(10'000), count) : decoder.rope;
  if (rope.type == "linear") {
    const double factor = rope.number("factor").value_or(1);
    for (double& frequency : decoder.rope.inverse_frequencies) frequency /= factor;
  } else if (rope.type == "llama3") {
    stretch_llama3(decoder.rope, rope, config);
  } else if (rope.type == "longrope") {
    divide_longrope(decoder.rope, rope, config);
    decoder.longest_rope = rope.original_context(config);
  } else if (rope.type == "dynamic") {
    decoder.longest_rope = rope.original_context(config);
  } else if (!rope.type.empty() && rope.type != "default") {
    refuse(fmt::format("config.json: the forward pass knows no rotary embeddings of type {}", quoted(rope.type)));
  }
  if (family.local_pattern == 0) decoder.local_rope = decoder.rope;
}

/// Whether each layer is one with a sliding window, where that changes more than its reach.
std::vector<bool> local_layers(const GgufConfig& config, const Family& family, std::int64_t layers) {
  std::vector<bool> local(static_cast<std::size_t>(layers));
  if (family.local_pattern == 0) return local;
  const json::value* types = config.find("layer_types");
  if (types != nullptr && types->is_array() && types->get_array().size() == local.size()) {
    for (std::size_t i = 0; i < local.size(); ++i) local[i] = types->get_array()[i] == "sliding_attention";
    return local;
  }
  const auto pattern = static_cast<std::size_t>(
      std::max<std::int64_t>(1, config.integer({"sliding_window_pattern"}).value_or(family.local_pattern)));
  for (std::size_t i = 0; i < local.size(); ++i) local[i] = (i + 1) % pattern != 0;
  return local;
}

void read_experts(DecoderConfig& decoder, const GgufConfig& config, const Family& family) {
  decoder.experts_per_token = config.integer({"num_experts_per_tok"}).value_or(0);
  decoder.normalizes_experts = family.always_normalizes || config.flag("norm_topk_prob").value_or(false);
}

}  // namespace

DecoderConfig parse_decoder_config(const json::object& object) {
  const GgufConfig config(object);
  const Family& family = family_of(config);
  DecoderConfig decoder;
  decoder.model_type = family.model_type;
  decoder.layers = need(config, "num_hidden_layers");
  decoder.hidden = need(config, "hidden_size");
  decoder.heads = need(config, "num_attention_heads");
  decoder.key_value_heads = config.integer({"num_key_value_heads"}).value_or(decoder.heads);
  decoder.head_size = config.integer({"head_dim"}).value_or(0);
  if (decoder.head_size == 0) decoder.head_size = family.head_size;
  if (decoder.head_size == 0) decoder.head_size = decoder.hidden / decoder.heads;
  HALFQUAD_REQUIRE(decoder.key_value_heads > 0 && decoder.heads % decoder.key_value_heads == 0 && decoder.head_size > 0,
                   kBadInput,
                   fmt::format("config.json: {} heads cannot share {} heads of keys and values", decoder.heads,
                               decoder.key_value_heads));
  decoder.norm_epsilon = config.number({"rms_norm_eps"}).value_or(1e-6);
  decoder.norm_adds_one = family.is_gemma;
  decoder.has_post_norms = family.has_post_norms;
  if (family.is_gemma) decoder.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(decoder.hidden)));
  const double scaled_by = config.number({"query_pre_attn_scalar"}).value_or(static_cast<double>(decoder.head_size));
  decoder.attention_scale = 1 / std::sqrt(scaled_by);
  decoder.attention_softcap = config.number({"attn_logit_softcapping"}).value_or(0);
  decoder.gate = gate_of(config, family);
  read_experts(decoder, config, family);
  if (config.flag("use_sliding_window").value_or(true)) decoder.window = config.integer({"sliding_window"});
  if (decoder.window == 0) decoder.window.reset();
  decoder.is_local_layer = local_layers(config, family, decoder.layers);
  read_rope(decoder, config, family);
  return decoder;
}

}  // namespace halfquad
