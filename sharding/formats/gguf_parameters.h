#pragma once

#include <string>
#include <vector>

#include "io/gguf.h"
#include "sharding/formats/gguf_config.h"
#include "sharding/formats/gguf_names.h"

namespace halfquad {

/// A small tensor that llama.cpp wants and checkpoints do not hold.
struct GgufExtraTensor {
  std::string name;
  std::vector<float> values;
};

/// What a family's settings in config.json become.
struct GgufParameters {
  std::vector<GgufKey> keys;
  std::vector<GgufExtraTensor> tensors;  ///< Factors of rotary embeddings.
  std::vector<std::string> warnings;
};

/// Throws kBadInput naming a setting that is missing, of the wrong kind or too large.
[[nodiscard]] GgufParameters gguf_parameters(GgufFamily family, const GgufConfig& config);

}  // namespace halfquad
