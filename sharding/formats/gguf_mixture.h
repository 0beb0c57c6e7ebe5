#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf.h"
#include "sharding/rules.h"

namespace halfquad {

/// The mixtures of types that llama.cpp's quantize tool makes without an importance matrix, by its names (Q4_K_M, ...):
/// more bits where errors cost most. `names`: of all tensors of a GGUF file with these keys. Returns the type of each
/// that the mixture quantizes, embedding and output head included. Throws kUsage for an unknown name.
[[nodiscard]] std::map<std::string, GgmlTypeId, std::less<>> gguf_mixture(std::string_view mixture,
                                                                          std::span<const GgufKey> keys,
                                                                          std::span<const std::string> names);

/// The names of all mixtures.
[[nodiscard]] std::vector<std::string_view> gguf_mixtures();

/// general.file_type: llama.cpp's number for the mixture that these decisions look like.
[[nodiscard]] std::uint32_t gguf_file_type(std::span<const Decision> decisions);

}  // namespace halfquad
