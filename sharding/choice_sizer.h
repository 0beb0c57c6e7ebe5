#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "sharding/format.h"
#include "sharding/layer_class.h"
#include "sharding/model_outline.h"
#include "sharding/spec_chooser.h"

namespace halfquad {

/// What an output is made of beside the choice.
struct ChoiceInputs {
  const Checkpoint& checkpoint;
  const Recipe& recipe;  ///< Its rules go over the choice.
  const Format& format;
  SpecLimits limits;
  DType stored = DType::kF16;
  const SourceTexts& texts;
  const ModelOutline& outline;  ///< Of checkpoint and recipe.
};

/// A part of an output.
struct OutputPortion {
  std::uint64_t bytes = 0;  ///< Of all tensors.
  double weights = 0;       ///< Quantized.
  double layer_bytes = 0;   ///< Of these: codes, scales and zeros.
  double square_error = 0;  ///< Expected, summed up over them, each relative.
  std::size_t layers = 0;
  std::size_t misfits = 0;

  OutputPortion& operator+=(const OutputPortion& other) noexcept;
};

/// A choice taken apart: the classes of layers, and last what is in none.
struct ChoiceParts {
  SpecChoice choice;
  std::array<OutputPortion, kLayerClasses + 1> portions = {};
  std::string why_not = {};
};

/// Sizes of many choices for one model, from headers alone: by the catalog of tensors that quantize writes, of the
/// outline alone, but for GGUF, whose tensors are made of several of the source's.
class ChoiceSizer {
 public:
  /// All that `inputs` refers to must outlive it.
  explicit ChoiceSizer(const ChoiceInputs& inputs);

  // Thread-safe.
  [[nodiscard]] SizedChoice size(const SpecChoice& choice) const { return total(parts(choice)); }
  [[nodiscard]] ChoiceParts parts(const SpecChoice& choice) const;
  [[nodiscard]] SizedChoice total(const ChoiceParts& parts) const;
  /// Of choices with one width each, what can be mixed of two with the same groups between whose sizes no other is: the
  /// first classes have the larger one, as many as there are.
  [[nodiscard]] std::vector<SizedChoice> mixtures(std::span<const ChoiceParts> choices) const;

 private:
  [[nodiscard]] ModelOutline::Place place_of(std::string_view module) const;
  void take_layers(std::span<const Decision> decisions, const ModelOutline::Place& place, OutputPortion& portion) const;

  ChoiceInputs inputs_;
  bool by_outline_ = true;
  const Checkpoint& checkpoint_;
};

}  // namespace halfquad
