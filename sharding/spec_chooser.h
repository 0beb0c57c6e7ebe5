#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "kernels/quant_spec.h"
#include "runtime/dtype.h"
#include "sharding/format.h"
#include "sharding/output_catalog.h"
#include "sharding/rules.h"

namespace halfquad {

/// One way to quantize a whole model, as the options of quantize say it.
struct SpecChoice {
  std::optional<CodeWidth> width = {};
  std::optional<std::int64_t> group_size = {};
  std::string mixture = {};  ///< Instead of both, of a format that has some.

  /// "--bits 4 --group-size 64", "--mixture Q4_K_M"; empty for no choice at all.
  [[nodiscard]] std::string options() const;
};

/// The choices of a format: its mixtures, or all widths with groups of 32, 64 and 128.
[[nodiscard]] std::vector<SpecChoice> spec_choices(const Format& format);

/// A choice with what comes of it.
struct SizedChoice {
  SpecChoice choice;
  std::uint64_t bytes = 0;     ///< Of all tensors of the output.
  double bits_per_weight = 0;  ///< Of the quantized weights, scales and zeros included.
  double expected_error = 0;   ///< Of all weights of the model, relative; what is kept has none.
  std::size_t layers = 0;      ///< Quantized.
  std::size_t misfits = 0;     ///< Kept, for their shape does not fit.
  std::string why_not;         ///< Not empty: the format cannot hold the model so.
};

/// What an output is made of beside the choice.
struct ChoiceInputs {
  const Checkpoint& checkpoint;
  const Recipe& recipe;  ///< Its rules go over the choice.
  const Format& format;
  SpecLimits limits;
  DType stored = DType::kF16;
  const SourceTexts& texts;
};

/// From headers alone, by the catalog of tensors that quantize writes. Thread-safe.
[[nodiscard]] SizedChoice size_choice(const SpecChoice& choice, const ChoiceInputs& inputs);

/// Index of the choice with the least expected error of those that take at most `room` bytes, the smallest of equals;
/// nothing when none does.
[[nodiscard]] std::optional<std::size_t> best_choice(std::span<const SizedChoice> choices, std::uint64_t room);

/// Relative error (root mean square) that rounding to nearest makes on Gaussian weights in a layer of this spec: the
/// step is the range that as many normal numbers as a group has are expected to span, divided by the codes. What a
/// solver finds is better, in much the same proportion for all specs.
[[nodiscard]] double expected_error(const QuantSpec& spec, std::int64_t rows, std::int64_t cols);

/// Bytes of codes, scales and zeros of one layer.
[[nodiscard]] std::uint64_t stored_bytes_of(const QuantizedTensor& layer, DType stored);

}  // namespace halfquad
