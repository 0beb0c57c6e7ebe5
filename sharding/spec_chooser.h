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
#include "sharding/layer_class.h"
#include "sharding/output_catalog.h"
#include "sharding/rules.h"

namespace halfquad {

/// One way to quantize a whole model, as the options of quantize say it.
struct SpecChoice {
  std::optional<CodeWidth> width = {};
  std::optional<std::int64_t> group_size = {};
  std::string mixture = {};  ///< Instead of both, of a format that has some.
  /// The layers of the first `promoted` classes (layer_class.h) have this width instead.
  std::optional<CodeWidth> upper = {};
  std::size_t promoted = 0;

  /// "--bits 4 --group-size 64", "--mixture Q4_K_M"; empty for no choice at all. @pre !upper.
  [[nodiscard]] std::string options() const;
};

/// The choices of a format without two widths mixed: its mixtures, or all widths with groups of 32, 64 and 128, or of
/// `group_size`.
[[nodiscard]] std::vector<SpecChoice> spec_choices(const Format& format, std::optional<std::int64_t> group_size = {});

/// `recipe` with what a choice says in the place of its defaults; what it says of named tensors goes over a mixture.
[[nodiscard]] Recipe recipe_with(const SpecChoice& choice, Recipe recipe, const Format& format,
                                 const Checkpoint& checkpoint, const LayerClasses& classes);

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

/// How large an output may be.
struct SizeBudget {
  std::optional<std::uint64_t> bytes = {};     ///< SizedChoice::bytes
  std::optional<double> bits_per_weight = {};  ///< SizedChoice::bits_per_weight

  [[nodiscard]] bool holds(std::uint64_t size, double bits) const noexcept {
    return size <= bytes.value_or(size) && bits <= bits_per_weight.value_or(bits);
  }
};

/// Index of the choice with the least expected error of those within the budget, the smallest of equals; nothing when
/// none is.
[[nodiscard]] std::optional<std::size_t> best_choice(std::span<const SizedChoice> choices, const SizeBudget& budget);
/// Index of the smallest output that the format can hold; nothing when it can hold none.
[[nodiscard]] std::optional<std::size_t> smallest_choice(std::span<const SizedChoice> choices);

/// Relative error (root mean square) that rounding to nearest makes on Gaussian weights in a layer of this spec: the
/// step is the range that as many normal numbers as a group has are expected to span, divided by the codes. What a
/// solver finds is better, in much the same proportion for all specs.
[[nodiscard]] double expected_error(const QuantSpec& spec, std::int64_t rows, std::int64_t cols);

/// Bytes of codes, scales and zeros of one layer.
[[nodiscard]] std::uint64_t stored_bytes_of(const QuantizedTensor& layer, DType stored);

}  // namespace halfquad
