#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "io/gguf_types.h"
#include "kernels/quant_spec.h"

namespace halfquad {

struct SpecOverride;

/// A type of blocks, by the name ggml gives it, and the settings it stands for.
struct BlockType {
  GgmlTypeId id = GgmlTypeId::kQ4_1;
  CodeWidth width = CodeWidth::k4;
  ZeroKind zeros = ZeroKind::kFloat;
  bool super_blocks = false;
  std::int64_t group_size = 32;             ///< Weights that share a scale.
  GgmlTypeId fallback = GgmlTypeId::kQ4_1;  ///< For rows that super-blocks do not divide.
  FloatGrid grid = FloatGrid::kNone;

  [[nodiscard]] std::string_view name() const { return ggml_type(id).name; }  ///< "Q4_K", ...
  void apply_to(SpecOverride& spec) const;
  void apply_to(QuantSpec& spec) const;
};

[[nodiscard]] std::span<const BlockType> block_types() noexcept;
[[nodiscard]] const BlockType& block_type(GgmlTypeId id);
/// By name, in any case. Null when there is none.
[[nodiscard]] const BlockType* find_block_type(std::string_view name) noexcept;
/// The type that layers of this spec are stored in; null when there is none.
[[nodiscard]] const BlockType* block_type_of(const QuantSpec& spec) noexcept;

/// Sets what a type stands for: one of the above, or a grid with levels, which leaves the group size if it is set.
/// False for a name, in any case, that is none.
[[nodiscard]] bool apply_type(std::string_view name, SpecOverride& spec);
/// "one of Q4_0 Q4_1 ... nf4 learned4 learned3"
[[nodiscard]] const std::string& type_names();

}  // namespace halfquad
