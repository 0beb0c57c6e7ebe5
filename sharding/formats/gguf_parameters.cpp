#include "sharding/formats/gguf_parameters.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <utility>

#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

// Values that transformers takes for settings that a config.json may leave out.
constexpr double kRopeTheta = 10000.0;
constexpr double kGemma3RopeTheta = 1'000'000.0;
constexpr double kGemmaLocalRopeTheta = 10000.0;
constexpr double kRmsEpsilon = 1e-6;
constexpr double kMistralRmsEpsilon = 1e-5;  // Mixtral and Phi-3
constexpr std::int64_t kGemma3Context = 131072;
constexpr std::int64_t kGemma3HeadSize = 256;
constexpr std::int64_t kGemma3Heads = 8;
constexpr std::int64_t kGemma3KeyValueHeads = 4;
constexpr std::int64_t kGemmaSlidingWindow = 4096;
constexpr double kGemma2AttentionCap = 50.0;
constexpr double kGemma2FinalCap = 30.0;
constexpr std::int64_t kDeepseekKeyValueRank = 512;

/// Collects keys that begin with the architecture's name.
class KeyList {
 public:
  KeyList(std::string_view architecture, std::vector<GgufKey>& keys) : architecture_(architecture), keys_(keys) {}

  void u32(std::string_view key, std::int64_t value) {
    HALFQUAD_REQUIRE(std::in_range<std::uint32_t>(value), kBadInput,
                     fmt::format("config.json: {} does not fit {} of a GGUF file", value, quoted(full(key))));
    set(key, static_cast<std::uint32_t>(value));
  }
  void u32(std::string_view key, std::optional<std::int64_t> value) {
    if (value) u32(key, *value);
  }
  void f32(std::string_view key, std::optional<double> value) {
    if (value) set(key, static_cast<float>(*value));
  }
  void text(std::string_view key, std::string value) { set(key, std::move(value)); }
  void flag(std::string_view key, bool value) { set(key, value); }

 private:
  [[nodiscard]] std::string full(std::string_view key) const { return fmt::format("{}.{}", architecture_, key); }

  /// A later setting of a key replaces an earlier one, so a family can correct what all share.
  void set(std::string_view key, GgufValue value) {
    const std::string name = full(key);
    const auto found = std::ranges::find(keys_, name, &GgufKey::name);
    if (found != keys_.end()) {
      found->value = std::move(value);
    } else {
      keys_.push_back({name, std::move(value)});
    }
  }

  std::string_view architecture_;
  std::vector<GgufKey>& keys_;
};

/// Derives the keys of one model.
class Parameters {
 public:
  Parameters(GgufFamily family, const GgufConfig& config)
      : family_(family), config_(config), rope_(config), list_(gguf_architecture(family), out_.keys) {}

  [[nodiscard]] GgufParameters derive() {
    if (family_ == GgufFamily::kGemma2) {
      add_gemma2();
    } else if (family_ == GgufFamily::kPhi3) {
      add_phi3();
    } else {
      add_common();
      add_experts();
      add_family();
    }
    return std::move(out_);
  }

 private:
  /// What every family but two writes in the same way.
  void add_common() {
    add_sizes();
    add_rope();
    add_epsilon();
    if (const auto head_size = config_.integer({"head_dim"})) add_head_size(*head_size);
  }

  void add_epsilon() {
    const bool mistral = family_ == GgufFamily::kMixtral || family_ == GgufFamily::kPhi3;
    list_.f32("attention.layer_norm_rms_epsilon",
              config_.number({"rms_norm_eps", "norm_eps"}).value_or(mistral ? kMistralRmsEpsilon : kRmsEpsilon));
  }

  void add_sizes() {
    list_.u32("block_count", config_.layers());
    list_.u32("context_length", config_.need_integer({"max_position_embeddings", "n_ctx", "n_positions"}));
    list_.u32("embedding_length", config_.need_integer({"hidden_size"}));
    list_.u32("feed_forward_length", config_.need_integer({"intermediate_size"}));
    list_.u32("attention.head_count", config_.heads());
    list_.u32("attention.head_count_kv", config_.key_value_heads());
  }

  void add_head_size(std::int64_t size) {
    list_.u32("attention.key_length", size);
    list_.u32("attention.value_length", size);
  }

  void add_rope() {
    const bool gemma = family_ == GgufFamily::kGemma3;
    list_.f32("rope.freq_base", rope_.theta.value_or(gemma ? kGemma3RopeTheta : kRopeTheta));
    if (gemma) list_.f32("rope.freq_base_swa", rope_.local_theta.value_or(kGemmaLocalRopeTheta));
    const std::optional<double> factor = rope_.number("factor");
    if (rope_.type == "linear" && factor) {
      list_.text("rope.scaling.type", "linear");
      list_.f32("rope.scaling.factor", factor);
    } else if (rope_.type == "yarn" && factor) {
      add_yarn(*factor);
    } else if (rope_.type == "su" || rope_.type == "longrope") {
      list_.text("rope.scaling.type", "longrope");
    } else if (rope_.type == "llama3") {
      add_llama3_factors();
    } else if (!rope_.type.empty() && rope_.type != "default") {
      out_.warnings.push_back(
          fmt::format("the rotary embeddings' scaling of type {} has no GGUF key and is left out", quoted(rope_.type)));
    }
  }

  void add_yarn(double factor) {
    list_.text("rope.scaling.type", "yarn");
    list_.f32("rope.scaling.factor", factor);
    list_.u32("rope.scaling.original_context_length", rope_.original_context(config_));
    list_.f32("rope.scaling.yarn_ext_factor", rope_.number("extrapolation_factor"));
    const auto attention = rope_.number("attention_factor");
    list_.f32("rope.scaling.yarn_attn_factor", attention ? attention : rope_.number("attn_factor"));
    list_.f32("rope.scaling.yarn_beta_fast", rope_.number("beta_fast"));
    list_.f32("rope.scaling.yarn_beta_slow", rope_.number("beta_slow"));
  }

  /// Llama 3.1's stretching of long wavelengths, as a divisor for each frequency.
  void add_llama3_factors() {
    const auto base = static_cast<float>(rope_.theta.value_or(kRopeTheta));
    const std::int64_t dimensions = config_.head_size();
    const double factor = rope_.number("factor").value_or(8.0);
    const double low = rope_.number("low_freq_factor").value_or(1.0);
    const double high = rope_.number("high_freq_factor").value_or(4.0);
    const double context = rope_.number("original_max_position_embeddings").value_or(8192.0);
    GgufExtraTensor extra{"rope_freqs.weight", {}};
    for (std::int64_t i = 0; i < dimensions; i += 2) {
      const float exponent = static_cast<float>(i) / static_cast<float>(dimensions);
      const double wavelength = 2.0 * std::numbers::pi * static_cast<double>(std::pow(base, exponent));
      double divisor = 1.0;
      if (wavelength > context / low) {
        divisor = factor;
      } else if (wavelength >= context / high) {
        const double smooth = (context / wavelength - low) / (high - low);
        divisor = 1.0 / ((1.0 - smooth) / factor + smooth);
      }
      extra.values.push_back(static_cast<float>(divisor));
    }
    out_.tensors.push_back(std::move(extra));
  }

  void add_experts() {
    const std::int64_t experts = config_.experts();
    if (experts == 0) return;
    list_.u32("expert_count", experts);
    list_.u32("expert_used_count", config_.need_integer({"num_experts_per_tok", "num_experts_per_token"}));
    list_.u32("expert_group_count", config_.integer({"n_group"}));
    list_.u32("expert_group_used_count", config_.integer({"topk_group"}));
    std::optional<std::string> gating = config_.text({"scoring_func", "score_function", "moe_router_activation_func"});
    // Without the key llama.cpp takes softmax, which is right for V2 alone.
    if (!gating && config_.model_class() == "DeepseekV3ForCausalLM") gating = "sigmoid";
    if (gating) {
      HALFQUAD_REQUIRE(
          *gating == "softmax" || *gating == "sigmoid", kBadInput,
          fmt::format("config.json: the experts' scoring function {} has no number in GGUF files", quoted(*gating)));
      list_.u32("expert_gating_func", std::int64_t{*gating == "softmax" ? 1 : 2});
    }
  }

  void add_family() {
    if (family_ == GgufFamily::kLlama || family_ == GgufFamily::kMixtral) {
      list_.u32("vocab_size", config_.need_integer({"vocab_size"}));
      if (family_ == GgufFamily::kLlama) add_head_size(config_.head_size());
      list_.u32("rope.dimension_count", config_.head_size());
    } else if (family_ == GgufFamily::kQwen3Moe) {
      list_.u32("expert_feed_forward_length", config_.need_integer({"moe_intermediate_size"}));
    } else if (family_ == GgufFamily::kGemma3) {
      add_gemma3();
    } else if (family_ == GgufFamily::kDeepseek2) {
      add_deepseek2();
    }
  }

  void add_gemma2() {
    add_sizes();
    add_epsilon();
    add_head_size(config_.integer({"head_dim"}).value_or(kGemma3HeadSize));
    list_.f32("attn_logit_softcapping", config_.number({"attn_logit_softcapping"}).value_or(kGemma2AttentionCap));
    list_.f32("final_logit_softcapping", config_.number({"final_logit_softcapping"}).value_or(kGemma2FinalCap));
    list_.u32("attention.sliding_window", config_.integer({"sliding_window"}).value_or(kGemmaSlidingWindow));
  }

  void add_gemma3() {
    add_head_size(config_.integer({"head_dim"}).value_or(kGemma3HeadSize));
    if (const auto cap = config_.number({"final_logit_softcapping"}); cap && *cap != 0) {
      list_.f32("final_logit_softcapping", cap);
    }
    if (config_.integer({"sliding_window_pattern"}) != std::optional<std::int64_t>(1)) {
      list_.u32("attention.sliding_window", config_.integer({"sliding_window"}).value_or(kGemmaSlidingWindow));
    }
  }

  void add_phi3() {
    const std::int64_t context = config_.need_integer({"max_position_embeddings", "n_positions"});
    const std::int64_t original = rope_.original_context(config_);
    const std::int64_t dimensions = phi3_rope_dimensions();
    add_sizes();
    list_.u32("rope.scaling.original_context_length", original);
    add_epsilon();
    list_.u32("rope.dimension_count", dimensions);
    list_.f32("rope.freq_base", rope_.theta.value_or(kRopeTheta));
    list_.u32("attention.sliding_window", config_.integer({"sliding_window"}).value_or(0));
    add_phi3_factors(static_cast<double>(context), static_cast<double>(original), dimensions);
  }

  [[nodiscard]] std::int64_t phi3_rope_dimensions() const {
    std::optional<double> part = rope_.number("partial_rotary_factor");
    if (!part) part = config_.number({"partial_rotary_factor"});
    const auto width = static_cast<double>(config_.need_integer({"hidden_size"}));
    return static_cast<std::int64_t>(part.value_or(1.0) * width) / std::max<std::int64_t>(config_.heads(), 1);
  }

  void add_phi3_factors(double context, double original, std::int64_t dimensions) {
    const std::vector<float> longer = rope_.numbers("long_factor");
    const std::vector<float> shorter = rope_.numbers("short_factor");
    if (longer.empty()) return;
    const double stretch = context / original;
    double attention = 1.0;
    if (rope_.type == "su" || rope_.type == "longrope") {
      if (stretch > 1.0) attention = std::sqrt(1.0 + std::log(stretch) / std::log(original));
    } else if (rope_.type == "yarn") {
      if (stretch > 1.0) attention = 0.1 * std::log(stretch) + 1.0;
    } else {
      throw Error(ErrorCode::kBadInput,
                  fmt::format("config.json: rotary embeddings with long factors of type {} have no GGUF keys",
                              quoted(rope_.type)));
    }
    HALFQUAD_REQUIRE(longer.size() == shorter.size() && std::cmp_equal(longer.size(), dimensions / 2), kBadInput,
                     fmt::format("config.json: the rotary embeddings need {} long and short factors but there are {} "
                                 "and {}",
                                 dimensions / 2, longer.size(), shorter.size()));
    list_.f32("rope.scaling.attn_factor", attention);
    out_.tensors.push_back({"rope_factors_long.weight", longer});
    out_.tensors.push_back({"rope_factors_short.weight", shorter});
  }

  void add_deepseek2() {
    const std::int64_t rank = config_.integer({"kv_lora_rank"}).value_or(kDeepseekKeyValueRank);
    const std::int64_t rope = config_.need_integer({"qk_rope_head_dim"});
    // llama.cpp runs this attention on the compressed keys and values: one key head that all query heads share.
    list_.u32("attention.head_count_kv", std::int64_t{1});
    list_.u32("leading_dense_block_count", config_.leading_dense_layers());
    list_.u32("vocab_size", config_.need_integer({"vocab_size"}));
    list_.u32("attention.q_lora_rank", config_.integer({"q_lora_rank"}));
    list_.u32("attention.kv_lora_rank", rank);
    list_.u32("attention.key_length", rank + rope);
    list_.u32("attention.value_length", rank);
    list_.u32("attention.key_length_mla", config_.need_integer({"qk_nope_head_dim"}) + rope);
    list_.u32("attention.value_length_mla", config_.need_integer({"v_head_dim"}));
    list_.u32("expert_feed_forward_length", config_.need_integer({"moe_intermediate_size", "intermediate_size"}));
    list_.u32("expert_shared_count", config_.integer({"n_shared_experts"}).value_or(0));
    list_.f32("expert_weights_scale", config_.number({"routed_scaling_factor"}));
    if (config_.flag("norm_topk_prob").value_or(false)) list_.flag("expert_weights_norm", true);
    list_.u32("rope.dimension_count", rope);
    if (const auto scale = rope_.number("mscale_all_dim")) {
      list_.f32("rope.scaling.yarn_log_multiplier", 0.1 * *scale);  // llama.cpp divides by 0.1 again
    }
  }

  GgufFamily family_;
  const GgufConfig& config_;
  GgufRope rope_;
  GgufParameters out_;
  KeyList list_;
};

}  // namespace

GgufParameters gguf_parameters(GgufFamily family, const GgufConfig& config) {
  return Parameters(family, config).derive();
}

}  // namespace halfquad
