#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sharding/source_config.h"
#include "sharding/source_tensors.h"

namespace halfquad {

/// "<prefix>.gate_up_proj" or "<prefix>.down_proj" of a layer's experts.
struct FusedName {
  std::string prefix;  ///< Ends in "experts".
  bool is_gate_up = false;
};

/// The parts of such a name, which may end in ".weight"; nothing when it is another.
[[nodiscard]] std::optional<FusedName> fused_name_of(std::string_view name);

/// How all experts of a layer lie in a fused tensor.
struct FusedLayout {
  std::int64_t experts = 0;
  std::int64_t rows = 0;     ///< Outputs of one expert's matrix: of gate and up together.
  std::int64_t cols = 0;     ///< Its inputs.
  bool transposed = false;   ///< [experts, cols, rows] instead of [experts, rows, cols].
  bool interleaved = false;  ///< Even rows are gate's and odd ones up's, instead of one half each.
};

/// The layout of a 3-D tensor of plain elements. `gate_up_shape`: of the gate_up_proj of the same experts, which tells
/// the orientation of both. Throws kBadInput when config.json does not tell it or contradicts the shape.
[[nodiscard]] FusedLayout fused_layout(const SourceTensor& tensor, bool is_gate_up,
                                       const std::vector<std::int64_t>& gate_up_shape, const SourceConfig& config);

/// The layout of the MXFP4 blocks [experts, rows, cols / 32, 16]. Throws as fused_layout().
[[nodiscard]] FusedLayout mxfp4_layout(const SourceTensor& blocks, bool is_gate_up, const SourceConfig& config);

/// The matrices of every expert. `common`: header and encoding of the fused tensor; a row that is not transposed takes
/// `row_bytes`.
[[nodiscard]] std::vector<LogicalTensor> split_experts(const LogicalTensor& common, const FusedName& name,
                                                       const FusedLayout& layout, std::uint64_t row_bytes);

/// Gives `experts`, what split_experts() made of the FP8 tensor `fused`, their parts of `scale`: one for all experts,
/// for each, for every output of each, or for blocks of `block` elements along the stored dimensions. Throws kBadInput
/// for scales of other shapes, and for blocks that gate and up share.
void place_scales(const SourceTensor& fused, const SourceTensor& scale, const FusedLayout& layout,
                  const std::array<std::int64_t, 2>& block, std::span<LogicalTensor> experts);

}  // namespace halfquad
