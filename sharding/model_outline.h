#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "io/checkpoint.h"
#include "sharding/layer_class.h"
#include "sharding/rules.h"

namespace halfquad {

/// A model in which blocks and experts that are alike but for their numbers stand there once: what sizes can be worked
/// out by, whatever the settings. A mixture of experts has a hundred thousand tensors, but a few hundred kinds of them.
class ModelOutline {
 public:
  /// `recipe`: its rules, skip patterns and names tell tensors apart. Throws kUsage as decide() does for one that finds
  /// nothing.
  ModelOutline(const Checkpoint& checkpoint, const Recipe& recipe);

  struct Place {
    std::size_t layer_class = kNoLayerClass;
    std::uint64_t times = 1;  ///< That the model has such a module.
  };
  /// Of a module of alike(); any other stands for itself alone, in no class.
  [[nodiscard]] Place place_of(std::string_view module) const;
  /// One of each kind.
  [[nodiscard]] const Checkpoint& alike() const noexcept { return alike_; }
  [[nodiscard]] const LayerClasses& classes() const noexcept { return classes_; }
  [[nodiscard]] double weights() const noexcept { return weights_; }  ///< Of the whole model.

 private:
  Checkpoint find_alike(const Checkpoint& checkpoint, const Recipe& recipe);

  LayerClasses classes_;
  std::map<std::string, Place, std::less<>> places_;
  double weights_ = 0;
  Checkpoint alike_;  // last: finding it fills places_
};

/// A tensor's name without what comes after its last dot: all tensors of a module have that in common.
[[nodiscard]] std::string_view module_part(std::string_view name) noexcept;

}  // namespace halfquad
