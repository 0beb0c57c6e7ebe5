#include "sharding/formats/gguf_mixture.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <variant>
#include <vector>

#include <boost/algorithm/string/predicate.hpp>
#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/block_type.h"
#include "sharding/formats/row_format.h"

namespace halfquad {
namespace {

using Id = GgmlTypeId;

enum class Mix : std::uint8_t { kPlain, kQ2, kQ2Small, kQ3Small, kQ3Medium, kQ3Large, kSmall, kMedium };

struct MixRecipe {
  std::string_view name;
  Id base;
  Mix mix;
  std::uint32_t file_type;  // llama.cpp's llama_ftype
};

constexpr std::array<MixRecipe, 15> kRecipes = {{{"Q2_K", Id::kQ2_K, Mix::kQ2, 10},
                                                 {"Q2_K_S", Id::kQ2_K, Mix::kQ2Small, 21},
                                                 {"Q3_K_S", Id::kQ3_K, Mix::kQ3Small, 11},
                                                 {"Q3_K_M", Id::kQ3_K, Mix::kQ3Medium, 12},
                                                 {"Q3_K_L", Id::kQ3_K, Mix::kQ3Large, 13},
                                                 {"Q4_K_S", Id::kQ4_K, Mix::kSmall, 14},
                                                 {"Q4_K_M", Id::kQ4_K, Mix::kMedium, 15},
                                                 {"Q5_K_S", Id::kQ5_K, Mix::kPlain, 16},
                                                 {"Q5_K_M", Id::kQ5_K, Mix::kMedium, 17},
                                                 {"Q6_K", Id::kQ6_K, Mix::kPlain, 18},
                                                 {"Q4_0", Id::kQ4_0, Mix::kPlain, 2},
                                                 {"Q4_1", Id::kQ4_1, Mix::kPlain, 3},
                                                 {"Q5_0", Id::kQ5_0, Mix::kPlain, 8},
                                                 {"Q5_1", Id::kQ5_1, Mix::kPlain, 9},
                                                 {"Q8_0", Id::kQ8_0, Mix::kPlain, 7}}};

const MixRecipe& recipe_named(std::string_view name) {
  const auto* const found = std::ranges::find_if(
      kRecipes, [&](const MixRecipe& mixture) { return boost::algorithm::iequals(mixture.name, name); });
  if (found != kRecipes.end()) return *found;
  std::string names;
  for (const MixRecipe& mixture : kRecipes) names += fmt::format(" {}", mixture.name);
  throw Error(ErrorCode::kUsage, fmt::format("--mixture: there is no mixture {}; known are{}", quoted(name), names));
}

/// N of "blk.N.".
std::optional<std::int64_t> layer_of(std::string_view name) {
  constexpr std::string_view kPrefix = "blk.";
  if (!name.starts_with(kPrefix)) return std::nullopt;
  std::int64_t layer = 0;
  const auto [end, code] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
  if (code != std::errc{} || end == name.data() + name.size() || *end != '.') return std::nullopt;
  return layer;
}

/// A whole number of the model's settings, or the largest of an array that has one for each layer.
std::int64_t setting(std::span<const GgufKey> keys, std::string_view suffix) {
  const auto found = std::ranges::find_if(keys, [&](const GgufKey& key) { return key.name.ends_with(suffix); });
  if (found == keys.end()) return 0;
  if (const auto* one = std::get_if<std::uint32_t>(&found->value)) return *one;
  if (const auto* several = std::get_if<GgufArray>(&found->value)) {
    if (const auto* values = std::get_if<std::vector<std::int32_t>>(several); values != nullptr && !values->empty()) {
      return std::ranges::max(*values);
    }
    if (const auto* values = std::get_if<std::vector<std::uint32_t>>(several); values != nullptr && !values->empty()) {
      return std::ranges::max(*values);
    }
  }
  return 0;
}

/// llama.cpp's choice of the layers that deserve more bits: the first and last eighth, and every third between.
bool use_more_bits(std::int64_t layer, std::int64_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

class Mixture {
 public:
  Mixture(const MixRecipe& mixture, std::span<const GgufKey> keys, std::span<const std::string> names)
      : recipe_(mixture),
        layers_(setting(keys, ".block_count")),
        experts_(setting(keys, ".expert_count")),
        has_output_(std::ranges::find(names, kOutput) != names.end()) {
    const std::int64_t kv_heads = setting(keys, ".attention.head_count_kv");
    heads_per_kv_ = kv_heads > 0 ? setting(keys, ".attention.head_count") / kv_heads : 1;
    for (const std::string& name : names) {
      if (!is_value(name)) continue;
      if (const auto layer = layer_of(name)) value_layers_.push_back(*layer);
    }
    std::ranges::sort(value_layers_);
  }

  [[nodiscard]] Id type_of(std::string_view name) const {
    if (name == kOutput || (!has_output_ && name == kEmbedding))
      return recipe_.base == Id::kQ8_0 ? Id::kQ8_0 : Id::kQ6_K;
    const std::optional<std::int64_t> layer = layer_of(name);
    if (!layer) return recipe_.base;
    if (is_value(name)) return value_type(*layer);
    if (experts_ == 8 && name.ends_with("attn_k.weight")) return Id::kQ8_0;  // as small, and shared as widely
    if (name.find("ffn_down") != name.npos) return down_type(*layer);
    if (name.ends_with("attn_output.weight")) return attention_output_type();
    return recipe_.base;
  }

 private:
  static constexpr std::string_view kOutput = "output.weight";
  static constexpr std::string_view kEmbedding = "token_embd.weight";

  /// What makes an attention's values, alone or with others.
  static bool is_value(std::string_view name) {
    return name.ends_with("attn_v.weight") || name.ends_with("attn_qkv.weight") || name.ends_with("attn_kv_b.weight");
  }

  [[nodiscard]] Id value_type(std::int64_t layer) const {
    if (experts_ == 8) return Id::kQ8_0;
    const std::int64_t index = std::ranges::lower_bound(value_layers_, layer) - value_layers_.begin();
    Id type = recipe_.base;
    switch (recipe_.mix) {
      case Mix::kQ2:
        type = heads_per_kv_ >= 4 ? Id::kQ4_K : Id::kQ3_K;
        break;
      case Mix::kQ2Small:
        if (heads_per_kv_ >= 4) type = Id::kQ4_K;
        break;
      case Mix::kQ3Medium:
        type = index < 2 ? Id::kQ5_K : Id::kQ4_K;
        break;
      case Mix::kQ3Large:
        type = Id::kQ5_K;
        break;
      case Mix::kSmall:
        if (index < 4) type = Id::kQ5_K;
        break;
      case Mix::kMedium:
        if (use_more_bits(index, static_cast<std::int64_t>(value_layers_.size()))) type = Id::kQ6_K;
        break;
      case Mix::kPlain:
      case Mix::kQ3Small:
        break;
    }
    // In models of 80 layers eight heads share these small matrices.
    const bool is_70b = layers_ == 80 && heads_per_kv_ > 1;
    return is_70b && (type == Id::kQ3_K || type == Id::kQ4_K) ? Id::kQ5_K : type;
  }

  [[nodiscard]] Id down_type(std::int64_t layer) const {
    switch (recipe_.mix) {
      case Mix::kQ2:
        return Id::kQ3_K;
      case Mix::kQ2Small:
        return layer < layers_ / 8 ? Id::kQ4_K : recipe_.base;
      case Mix::kQ3Medium:
        return layer < layers_ / 16 ? Id::kQ5_K : Id::kQ4_K;
      case Mix::kQ3Large:
        return Id::kQ5_K;
      case Mix::kSmall:
        return layer < layers_ / 8 ? Id::kQ5_K : recipe_.base;
      case Mix::kMedium:
        return use_more_bits(layer, layers_) ? Id::kQ6_K : recipe_.base;
      case Mix::kPlain:
      case Mix::kQ3Small:
        break;
    }
    return recipe_.base;
  }

  [[nodiscard]] Id attention_output_type() const {
    if (experts_ == 8) {
      const bool is_small = recipe_.base == Id::kQ2_K || recipe_.mix == Mix::kQ3Small ||
                            recipe_.mix == Mix::kQ3Medium || recipe_.base == Id::kQ4_K;
      return is_small && recipe_.mix != Mix::kQ2Small ? Id::kQ5_K : recipe_.base;
    }
    if (recipe_.mix == Mix::kQ2) return Id::kQ3_K;
    if (recipe_.mix == Mix::kQ3Medium) return Id::kQ4_K;
    return recipe_.mix == Mix::kQ3Large ? Id::kQ5_K : recipe_.base;
  }

  const MixRecipe& recipe_;
  std::int64_t layers_, experts_;
  bool has_output_;
  std::int64_t heads_per_kv_ = 1;
  std::vector<std::int64_t> value_layers_;  // ascending
};

std::uint32_t file_type_named(std::string_view name) { return recipe_named(name).file_type; }

/// llama.cpp has no mixtures of these names, but numbers for such files.
constexpr std::uint32_t kMxfp4FileType = 38, kNvfp4FileType = 39;

}  // namespace

std::map<std::string, GgmlTypeId, std::less<>> gguf_mixture(std::string_view mixture, std::span<const GgufKey> keys,
                                                            std::span<const std::string> names) {
  const Mixture rules(recipe_named(mixture), keys, names);
  std::map<std::string, GgmlTypeId, std::less<>> types;
  for (const std::string& name : names) types.emplace(name, rules.type_of(name));
  return types;
}

std::vector<std::string_view> gguf_mixtures() {
  std::vector<std::string_view> names;
  for (const MixRecipe& mixture : kRecipes) names.push_back(mixture.name);
  return names;
}

std::uint32_t gguf_file_type(std::span<const Decision> decisions) {
  const BlockType* most = block_type_of(most_frequent_spec(decisions));
  if (most == nullptr) return file_type_named("Q4_1");
  if (most->id == Id::kMXFP4) return kMxfp4FileType;
  if (most->id == Id::kNVFP4) return kNvfp4FileType;
  if (!most->super_blocks || most->id == Id::kQ6_K || most->id == Id::kQ2_K) return file_type_named(most->name());
  std::map<Id, std::size_t> counts;
  for (const Decision& decision : decisions) {
    const BlockType* type = decision.quantize() ? block_type_of(decision.spec) : nullptr;
    if (type != nullptr) ++counts[type->id];
  }
  constexpr std::size_t kOutside = 2;  // embedding and output head have their own type in every mixture
  if (most->id != Id::kQ3_K) {
    return file_type_named(fmt::format("{}_{}", most->name(), counts[Id::kQ6_K] > kOutside ? "M" : "S"));
  }
  if (counts[Id::kQ4_K] > kOutside) return file_type_named("Q3_K_M");
  return file_type_named(counts[Id::kQ5_K] > kOutside ? "Q3_K_L" : "Q3_K_S");
}

}  // namespace halfquad
