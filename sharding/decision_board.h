#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/column_importance.h"
#include "kernels/level_grid.h"
#include "kernels/solver.h"
#include "sharding/item_record.h"
#include "sharding/output_layout.h"

namespace halfquad {

/// What the first passes over some tiles of one tensor added up to.
struct FirstPasses {
  std::size_t tensor = 0;  ///< Index into OutputLayout::quantized().
  std::int64_t tiles = 0;
  std::vector<ExactSum> step_abs;        ///< One per step (hqq), or none.
  WeightRange range;                     ///< Per tensor, or where it has a tensor scale.
  std::optional<ColumnMoments> columns;  ///< Where columns are weighed.
  std::optional<LevelHistogram> levels;  ///< Where levels are fitted.

  void add(FirstPasses other);
  void write(WireWriter& out);
  static FirstPasses read(WireReader& in);
};

/// A tensor and what was decided of it.
struct DecidedTensor {
  std::size_t tensor = 0;
  TensorDecision decision;
};

/// Settles tensors: adds up what first passes found, wherever they ran, until every tile of a tensor is counted. The
/// sums are exact, so their order does not matter. Not thread-safe.
class DecisionBoard {
 public:
  /// `settled`: what an earlier run decided, by tensor; may be empty.
  explicit DecisionBoard(const OutputLayout& layout, std::span<const std::optional<TensorDecision>> settled = {});

  /// Returns the decision when these were the tensor's last tiles; with those of the layers that share its tensor scale
  /// when they were the last of all of them.
  [[nodiscard]] std::vector<DecidedTensor> add(FirstPasses passes);

 private:
  [[nodiscard]] bool has_all_tiles(std::size_t tensor) const;
  [[nodiscard]] DecidedTensor conclude(std::size_t tensor, float tensor_scale);

  const OutputLayout& layout_;
  std::vector<FirstPasses> tensors_;
  std::vector<std::optional<float>> known_scales_;  // of tensors that share one which an earlier run found
};

/// The tensor scale of a layer, or of all it shares that with, that follows from the range of their weights.
[[nodiscard]] float tensor_scale_of(const QuantizedTensor& tensor, const WeightRange& range) noexcept;

/// The decision that follows from the sums over a whole tensor.
[[nodiscard]] TensorDecision decide(const QuantizedTensor& tensor, FirstPasses& all, float tensor_scale = 1);

}  // namespace halfquad
