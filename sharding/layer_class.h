#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "io/checkpoint.h"

namespace halfquad {

/// What a linear layer does in its block. Layers that engines merge (q, k and v; gate and up) do the same.
enum class LayerRole : std::uint8_t { kAttentionOut, kAttentionIn, kMlpDown, kMlpUp, kExperts };
inline constexpr std::size_t kLayerRoles = 5;
[[nodiscard]] std::string_view describe(LayerRole role) noexcept;  ///< "attention outputs", ...
/// From the module's name alone, in the families of config.json and in GGUF; kMlpUp for what has no known name.
[[nodiscard]] LayerRole layer_role(std::string_view module);

/// Where two widths are mixed, the layers of a class have the same: those of one role in some of the blocks.
inline constexpr std::size_t kBlockParts = 8;
inline constexpr std::size_t kLayerClasses = kLayerRoles * kBlockParts;
/// Layers that are in none.
inline constexpr std::size_t kNoLayerClass = kLayerClasses;

/// The classes of a model's layers. They are numbered in the order in which they get the larger of two widths: what
/// was measured to help a model most for its bytes comes first (see layer_class.cpp).
class LayerClasses {
 public:
  explicit LayerClasses(const Checkpoint& checkpoint);
  /// Of a module in a numbered block; kNoLayerClass for any other.
  [[nodiscard]] std::size_t of(std::string_view module) const;

 private:
  std::map<std::string, std::int64_t, std::less<>> blocks_;  ///< Of each stack, by what is before the block's number.
};

/// The number of the block that a module is in, and the name of the stack before it: "model.layers" and 3 of
/// "model.layers.3.mlp.up_proj". Nothing outside of numbered blocks.
struct BlockPlace {
  std::string_view stack;
  std::int64_t block = 0;
};
[[nodiscard]] std::optional<BlockPlace> block_place(std::string_view module);

}  // namespace halfquad
