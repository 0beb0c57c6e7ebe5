#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <boost/json/object.hpp>

#include "io/checkpoint.h"
#include "io/safetensors_header.h"
#include "sharding/rules.h"
#include "sharding/tiles.h"

namespace halfquad {

/// What one tensor of the output file holds.
struct OutputTensor {
  enum class Kind : std::uint8_t { kCopy, kConstant, kCodes, kScale, kZero };
  Kind kind = Kind::kCopy;
  std::size_t source = 0;  ///< kCopy: index into Checkpoint::tensors().
  std::string constant;    ///< kConstant: the bytes.
  BlockLayout blocks;      ///< How its checksum is cut.
};

/// One quantized linear layer: its source, its spec, its tiles and its three data tensors in the output.
struct QuantizedTensor {
  std::size_t source = 0;
  std::string module;
  QuantSpec spec;
  std::int64_t rows = 0, cols = 0;
  TileGeometry tiles;
  std::size_t codes = 0, scale = 0, zero = 0;  ///< Indices into OutputLayout::tensors().
};

/// Every tensor of an output in hqq's own safetensors layout, with dtype, shape and byte range, from headers and
/// decisions alone. The data sections come sorted by dtype, widest first, then by name.
class OutputLayout {
 public:
  /// `stored` (F16, BF16, F32) is the dtype of scale and zero, and what the file names as compute_dtype.
  OutputLayout(const Checkpoint& checkpoint, std::span<const Decision> decisions, DType stored);

  /// Header entries, in file order; contents()[i] says what entries()[i] holds.
  [[nodiscard]] std::span<const TensorEntry> entries() const noexcept { return entries_; }
  [[nodiscard]] std::span<const OutputTensor> contents() const noexcept { return contents_; }
  [[nodiscard]] std::span<const QuantizedTensor> quantized() const noexcept { return quantized_; }
  [[nodiscard]] DType stored() const noexcept { return stored_; }
  [[nodiscard]] std::uint64_t data_bytes() const noexcept;

 private:
  std::vector<TensorEntry> entries_;
  std::vector<OutputTensor> contents_;
  std::vector<QuantizedTensor> quantized_;
  DType stored_;
};

/// The source's config.json with the quantization_config that transformers 4.5x reads: the most frequent spec, and
/// skip_modules naming lm_head and every 2-D weight's module that is not quantized.
[[nodiscard]] boost::json::object hqq_config(const Checkpoint& checkpoint, std::span<const Decision> decisions);

/// Pairs (skip entry, quantized module) where transformers' substring test would wrongly skip a quantized module.
[[nodiscard]] std::vector<std::pair<std::string, std::string>> skip_conflicts(const Checkpoint& checkpoint,
                                                                              std::span<const Decision> decisions);

}  // namespace halfquad
