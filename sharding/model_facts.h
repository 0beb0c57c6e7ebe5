#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "io/checkpoint.h"

namespace halfquad {

/// What an engine keeps of every token while a model generates text: a key and a value of each layer.
struct CacheShape {
  std::int64_t layers = 0;           ///< That keep all tokens.
  std::int64_t windowed_layers = 0;  ///< That keep the last `window` tokens.
  std::int64_t window = 0;
  std::int64_t values_per_token = 0;  ///< Of one layer.
  std::int64_t key_value_heads = 0;   ///< 0 with latent attention, which keeps one vector for all heads.
  std::int64_t head_size = 0;         ///< Or the length of that vector.

  /// Of one sequence of `tokens`, with values of two bytes.
  [[nodiscard]] std::uint64_t bytes(std::int64_t tokens) const noexcept;
};

/// What config.json or the keys of a GGUF model say about it beside its weights.
struct ModelFacts {
  std::string architecture;          ///< "llama"; empty when unknown.
  bool generates = true;             ///< false: an encoder, which has no cache.
  std::optional<CacheShape> cache;   ///< Nothing when unknown.
  std::int64_t longest_context = 0;  ///< Tokens the model was made for; 0: unknown.
};

/// What cannot be told is left empty: nothing here decides about bytes.
[[nodiscard]] ModelFacts model_facts(const Checkpoint& checkpoint);

}  // namespace halfquad
