#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "sharding/output_layout.h"
#include "sharding/rules.h"

namespace halfquad {

/// Tensors that stay as they are for one reason.
struct KeptGroup {
  KeepReason reason = KeepReason::kNone;
  std::size_t tensors = 0;
  std::uint64_t bytes = 0;
  std::string example;  ///< One of their names.
};

/// Tensors quantized the same way.
struct SpecGroup {
  QuantSpec spec;
  std::size_t tensors = 0;
  std::uint64_t weights = 0;
  std::uint64_t source_bytes = 0;
  std::uint64_t output_bytes = 0;  ///< Codes, scales and zeros.
};

/// What a job does with a checkpoint, counted: for `plan`, the report and the summary.
struct Inventory {
  std::vector<SpecGroup> specs;  ///< Most weights first.
  std::vector<KeptGroup> kept;   ///< Most bytes first.
  std::uint64_t source_bytes = 0;
  std::uint64_t kept_bytes = 0;
  std::uint64_t weights = 0;
  std::uint64_t quantized_output_bytes = 0;

  /// Of the quantized weights, scales and zeros included.
  [[nodiscard]] double bits_per_weight() const noexcept;
  [[nodiscard]] std::size_t quantized_tensors() const noexcept;
};

[[nodiscard]] Inventory take_inventory(const Checkpoint& checkpoint, std::span<const Decision> decisions,
                                       const OutputLayout& layout);

/// Bytes of a layer's codes, scales and zeros in the output.
[[nodiscard]] std::uint64_t stored_layer_bytes(const QuantizedTensor& quantized, const OutputLayout& layout);

/// "4 bit, group 64, hqq 20 steps"; what is not the default (axis 0, per tensor, ...) is added.
[[nodiscard]] std::string describe(const QuantSpec& spec);

/// Modules whose shape does not fit the spec, with the reason: "model.layers.0.x: group size ...".
[[nodiscard]] std::vector<std::string> shape_warnings(const Checkpoint& checkpoint,
                                                      std::span<const Decision> decisions);

}  // namespace halfquad
