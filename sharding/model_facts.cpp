#include "sharding/model_facts.h"

#include <algorithm>
#include <initializer_list>
#include <string_view>
#include <type_traits>
#include <variant>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <fmt/format.h>

#include "io/gguf.h"

namespace halfquad {
namespace {

using Object = boost::json::object;
using Value = boost::json::value;

constexpr std::int64_t kMost = std::int64_t{1} << 40;  // of any such number

std::optional<std::int64_t> number_in(const Object& model, std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) {
    const Value* value = model.if_contains(key);
    if (value != nullptr && value->is_int64() && value->get_int64() > 0 && value->get_int64() < kMost) {
      return value->get_int64();
    }
  }
  return std::nullopt;
}

std::string text_in(const Object& model, std::string_view key) {
  const Value* value = model.if_contains(key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

/// Names of classes that end so generate text.
bool names_generator(std::string_view architecture) {
  const auto has = [&](std::string_view part) { return architecture.find(part) != std::string_view::npos; };
  return has("CausalLM") || has("ConditionalGeneration") || has("LMHead");
}

bool generates(const Object& config) {
  const Value* names = config.if_contains("architectures");
  if (names == nullptr || !names->is_array() || names->get_array().empty()) return true;
  return std::ranges::any_of(names->get_array(), [](const Value& name) {
    return name.is_string() && names_generator(std::string_view(name.get_string()));
  });
}

/// Divides `layers` by what they keep. Windows that only some engines make use of are not counted on.
void divide_layers(const Object& model, std::int64_t layers, CacheShape& cache) {
  cache.layers = layers;
  cache.window = number_in(model, {"sliding_window", "attention_chunk_size"}).value_or(0);
  const Value* types = model.if_contains("layer_types");
  if (types != nullptr && types->is_array()) {
    const auto count = [&](std::string_view part) {
      return std::ranges::count_if(types->get_array(), [&](const Value& type) {
        return type.is_string() && std::string_view(type.get_string()).find(part) != std::string_view::npos;
      });
    };
    cache.windowed_layers = std::min<std::int64_t>(layers, count("sliding") + count("chunked"));
    cache.layers = std::max<std::int64_t>(0, layers - cache.windowed_layers - count("linear"));
  } else if (const auto pattern = number_in(model, {"sliding_window_pattern"})) {
    cache.windowed_layers = layers - layers / *pattern;
    cache.layers = layers - cache.windowed_layers;
  } else if (text_in(model, "model_type") == "gemma2") {
    cache.windowed_layers = layers / 2;
    cache.layers = layers - cache.windowed_layers;
  }
  if (cache.window == 0) {
    cache.layers += cache.windowed_layers;
    cache.windowed_layers = 0;
  }
}

struct Heads {
  std::optional<std::int64_t> key_value, size, latent;
};

CacheShape cache_of(const Heads& heads) {
  CacheShape cache;
  if (heads.latent) {
    cache.head_size = *heads.latent;
    cache.values_per_token = *heads.latent;
  } else {
    cache.key_value_heads = *heads.key_value;
    cache.head_size = *heads.size;
    cache.values_per_token = 2 * cache.key_value_heads * cache.head_size;
  }
  return cache;
}

ModelFacts facts_of(const Object& config) {
  const Value* text = config.if_contains("text_config");
  const Object& model = text != nullptr && text->is_object() ? text->get_object() : config;
  ModelFacts facts;
  facts.architecture = text_in(config, "model_type");
  facts.generates = generates(config);
  facts.longest_context = number_in(model, {"max_position_embeddings", "n_positions", "n_ctx"}).value_or(0);
  const auto layers = number_in(model, {"num_hidden_layers", "n_layer", "num_layers", "n_layers"});
  const auto count = number_in(model, {"num_attention_heads", "n_head", "n_heads", "num_heads"});
  const auto width = number_in(model, {"hidden_size", "n_embd", "d_model"});
  Heads heads;
  heads.key_value = number_in(model, {"num_key_value_heads", "num_kv_heads", "n_head_kv"});
  if (!heads.key_value) heads.key_value = count;
  heads.size = number_in(model, {"head_dim", "kv_channels"});
  if (!heads.size && count && width) heads.size = *width / *count;
  if (const auto rank = number_in(model, {"kv_lora_rank"})) {
    heads.latent = *rank + number_in(model, {"qk_rope_head_dim"}).value_or(0);
  }
  if (!facts.generates || !layers || !(heads.latent || (heads.key_value && heads.size))) return facts;
  facts.cache = cache_of(heads);
  divide_layers(model, *layers, *facts.cache);
  return facts;
}

/// The largest of an array that has one for each layer.
std::optional<std::int64_t> number_in(const GgufHeader& header, const std::string& key) {
  const std::optional<std::int64_t> nothing;
  const auto one = [&](auto value) -> std::optional<std::int64_t> {
    const auto number = static_cast<double>(value);
    return number >= 1 && number < static_cast<double>(kMost) ? std::optional(static_cast<std::int64_t>(number))
                                                              : nothing;
  };
  const GgufValue* found = header.find(key);
  if (found == nullptr) return nothing;
  return std::visit(
      [&](const auto& value) -> std::optional<std::int64_t> {
        using Held = std::decay_t<decltype(value)>;
        if constexpr (std::is_integral_v<Held> && !std::is_same_v<Held, bool>) return one(value);
        if constexpr (std::is_same_v<Held, GgufArray>) {
          return std::visit(
              [&](const auto& values) -> std::optional<std::int64_t> {
                if constexpr (std::is_same_v<std::decay_t<decltype(values)>, std::vector<std::int32_t>> ||
                              std::is_same_v<std::decay_t<decltype(values)>, std::vector<std::uint32_t>>) {
                  return values.empty() ? nothing : one(std::ranges::max(values));
                }
                return nothing;
              },
              value);
        }
        return nothing;
      },
      *found);
}

ModelFacts facts_of(const GgufHeader& header) {
  ModelFacts facts;
  if (const GgufValue* architecture = header.find("general.architecture")) {
    if (const auto* name = std::get_if<std::string>(architecture)) facts.architecture = *name;
  }
  const auto number = [&](std::string_view key) {
    return number_in(header, fmt::format("{}.{}", facts.architecture, key));
  };
  facts.longest_context = number("context_length").value_or(0);
  // What has pooling settings is an encoder.
  facts.generates = header.find(facts.architecture + ".pooling_type") == nullptr;
  const auto layers = number("block_count");
  const auto count = number("attention.head_count");
  const auto width = number("embedding_length");
  Heads heads;
  heads.key_value = number("attention.head_count_kv");
  if (!heads.key_value) heads.key_value = count;
  heads.size = number("attention.key_length");
  if (!heads.size && count && width) heads.size = *width / *count;
  if (const auto rank = number("attention.kv_lora_rank")) {
    heads.latent = *rank + number("rope.dimension_count").value_or(0);
  }
  if (!facts.generates || !layers || !(heads.latent || (heads.key_value && heads.size))) return facts;
  facts.cache = cache_of(heads);
  facts.cache->layers = *layers;
  return facts;
}

}  // namespace

std::uint64_t CacheShape::bytes(std::int64_t tokens) const noexcept {
  constexpr std::int64_t kBytesOfAValue = 2;
  const std::int64_t kept = layers * tokens + windowed_layers * std::min(window, tokens);
  return static_cast<std::uint64_t>(kept * values_per_token * kBytesOfAValue);
}

ModelFacts model_facts(const Checkpoint& checkpoint) {
  if (checkpoint.gguf() != nullptr) return facts_of(*checkpoint.gguf());
  return checkpoint.config() ? facts_of(*checkpoint.config()) : ModelFacts{};
}

}  // namespace halfquad
