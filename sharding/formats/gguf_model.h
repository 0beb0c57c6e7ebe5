#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <boost/json/object.hpp>

#include "io/gguf.h"

namespace halfquad {

/// A tensor of a Hugging Face checkpoint: experts one by one, as plain matrices.
struct GgufSourceTensor {
  std::string name;
  std::vector<std::int64_t> shape;
};

/// What a tensor of a GGUF file may be stored in.
enum class GgufTensorKind : std::uint8_t {
  kLinear,  ///< The weights of a linear layer, or of one in each expert: may be quantized.
  kKeep,    ///< A matrix that is not quantized unless one asks for it: embeddings, the output head, MLA's k_b.
  kF32,     ///< Vectors, norms, routers: F32, whatever the source has.
};

/// Which rows of a source matrix make the rows of a GGUF tensor.
struct GgufRows {
  enum class Order : std::uint8_t {
    kSame,
    /// Within each head of `head_rows` rows the first half and the second half take turns: 0, n/2, 1, n/2 + 1, ...
    kInterleaved,
    /// Rows [first, first + count) of each head of `head_rows` rows.
    kSlice,
    /// These rows of each head, transposed: an output row holds a column of the slice, `count` elements long.
    kTransposedSlice,
  };
  Order order = Order::kSame;
  std::int64_t head_rows = 0;
  std::int64_t first = 0;
  std::int64_t count = 0;

  /// The source row of output row `row`. @pre order is not kTransposedSlice.
  [[nodiscard]] std::int64_t source_row(std::int64_t row) const noexcept;
  friend bool operator==(const GgufRows&, const GgufRows&) = default;
};

/// A tensor of the GGUF file and where its values come from.
struct GgufModelTensor {
  std::string name;
  std::vector<std::int64_t> dims;  ///< Innermost first.
  GgufTensorKind kind = GgufTensorKind::kLinear;
  /// Indices into the sources: one, or those of all experts, whose matrices follow each other. Empty for `values`.
  std::vector<std::size_t> sources;
  GgufRows rows;              ///< Of each source.
  float add = 0;              ///< Added to every value: llama.cpp multiplies by Gemma's norms as they are.
  std::vector<float> values;  ///< Of a tensor that the source does not have.
  /// Id of the ggml type in which the source, a GGUF file, has it. Empty for other sources.
  std::optional<std::uint32_t> stored_as = std::nullopt;
};

struct GgufModel {
  std::string architecture;
  /// general.architecture and general.type, then the model's sizes and settings: all but general.name,
  /// general.file_type, general.quantization_version and the tokenizer's.
  std::vector<GgufKey> keys;
  /// In the order of the sources (of an expert: the first one's); those without a source come first.
  std::vector<GgufModelTensor> tensors;
  /// Sources that the file does not hold, and why.
  struct Dropped {
    std::size_t source = 0;
    std::string reason;
  };
  std::vector<Dropped> dropped;
  /// Of the embedding, which is what the tokens of the tokenizer must number.
  std::int64_t vocabulary = 0;
  std::vector<std::string> warnings;  ///< One sentence each.
};

/// The GGUF file that llama.cpp's own converter would make of a checkpoint, from names, shapes and config.json alone.
/// Families: Llama, Mistral, Mixtral, Qwen2, Qwen3, Qwen3-MoE, Gemma 2 and 3 (the text model), Phi-3, DeepSeek-V2 and
/// V3. Throws kBadInput naming the model class, the setting or the tensor: a class of another family, a setting that is
/// missing or of the wrong kind, a tensor that the family does not know or has twice, one that it needs and that is not
/// there, a shape that contradicts config.json.
[[nodiscard]] GgufModel make_gguf_model(const boost::json::object& config, std::span<const GgufSourceTensor> sources);

}  // namespace halfquad
