#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace halfquad {

/// A layer as GGUF calls it, whoever named it.
struct InputName {
  std::string layer;         ///< "blk.3.ffn_up_exps"; of an expert, the tensor that holds all of them.
  std::int64_t expert = -1;  ///< -1: a layer that is no expert, or all experts at once.

  friend bool operator==(const InputName&, const InputName&) = default;
};

/// The GGUF name of a layer, with or without ".weight" behind it: from GGUF's own names ("blk.3.ffn_up_exps.17", and
/// "blk.3.ffn_up.17" of older files) and from those of Hugging Face's models, whatever their family. Nothing for a name
/// that says neither.
[[nodiscard]] std::optional<InputName> gguf_input_name(std::string_view name);

/// `layer` (InputName::layer) and the layers that have the same inputs, whether they exist or not: q, k and v, or gate
/// and up, together or on their own.
[[nodiscard]] std::vector<std::string> layers_of_same_inputs(const std::string& layer);

}  // namespace halfquad
