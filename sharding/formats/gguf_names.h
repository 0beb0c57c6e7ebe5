#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace halfquad {

/// Families of models that can be written as GGUF; a bit each, so that a rule can name several.
enum class GgufFamily : std::uint32_t {
  kLlama = 1U << 0U,  ///< Also Mistral.
  kMixtral = 1U << 1U,
  kQwen2 = 1U << 2U,
  kQwen3 = 1U << 3U,
  kQwen3Moe = 1U << 4U,
  kGemma2 = 1U << 5U,
  kGemma3 = 1U << 6U,
  kPhi3 = 1U << 7U,
  kDeepseek2 = 1U << 8U,  ///< DeepSeek-V2 and V3.
};

/// The family of a model class of transformers ("LlamaForCausalLM"). Throws kBadInput naming it and the supported ones.
[[nodiscard]] GgufFamily gguf_family(std::string_view model_class);

/// general.architecture of the family.
[[nodiscard]] std::string_view gguf_architecture(GgufFamily family);

/// What a tensor is to a model.
enum class GgufRole : std::uint8_t {
  kLinear,
  kRopeQuery,  ///< A linear layer whose rows llama.cpp wants interleaved within each of the query heads.
  kRopeKey,    ///< The same for the key heads.
  kExpert,     ///< A linear layer of one of the experts, stacked with those of the others.
  kKeyValueB,  ///< MLA's kv_b_proj, which becomes two tensors.
  kNorm,
  kRouter,
  kEmbedding,  ///< Or the output head.
};

/// Which layers have a tensor.
enum class GgufNeed : std::uint8_t { kAlways, kDenseLayers, kExpertLayers, kQueryLora, kNoQueryLora, kOptional };

/// One row of the table of names inside a layer.
struct GgufNameRule {
  std::string_view source;  ///< After "model.layers.<n>.", without ".weight"; an expert's number is '*'.
  std::string_view target;  ///< After "blk.<n>.".
  GgufRole role = GgufRole::kLinear;
  GgufNeed need = GgufNeed::kAlways;
  std::uint32_t families = 0;  ///< Bits of GgufFamily.
  bool bias = false;           ///< Whether llama.cpp knows a bias beside it.

  [[nodiscard]] bool is_for(GgufFamily family) const noexcept {
    return (families & static_cast<std::uint32_t>(family)) != 0;
  }
};

[[nodiscard]] std::span<const GgufNameRule> gguf_layer_rules();

/// A source tensor's name taken apart.
struct GgufSourceName {
  const GgufNameRule* rule = nullptr;  ///< Null outside of the layers.
  std::int64_t layer = -1;
  std::int64_t expert = -1;
  bool is_bias = false;
  std::string target;  ///< The tensor's name in the GGUF file.
  GgufRole role = GgufRole::kLinear;
  std::string dropped;  ///< Why llama.cpp has no use for it; empty when it has.
};

/// Nothing for a tensor that the family's tables do not know. Layers from `layers` on are blocks for multi-token
/// prediction.
[[nodiscard]] std::optional<GgufSourceName> gguf_source_name(GgufFamily family, std::string_view name,
                                                             std::int64_t layers);

}  // namespace halfquad
