#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/column_importance.h"
#include "kernels/solver.h"
#include "sharding/item_record.h"
#include "sharding/output_layout.h"

namespace halfquad {

/// What the first passes over some tiles of one tensor added up to.
struct FirstPasses {
  std::size_t tensor = 0;  ///< Index into OutputLayout::quantized().
  std::int64_t tiles = 0;
  std::vector<ExactSum> step_abs;        ///< One per step (hqq), or none.
  WeightRange range;                     ///< Per tensor.
  std::optional<ColumnMoments> columns;  ///< Where columns are weighed.

  void add(FirstPasses other);
  void write(WireWriter& out);
  static FirstPasses read(WireReader& in);
};

/// Settles tensors: adds up what first passes found, wherever they ran, until every tile of a tensor is counted. The
/// sums are exact, so their order does not matter. Not thread-safe.
class DecisionBoard {
 public:
  explicit DecisionBoard(const OutputLayout& layout) : layout_(layout), tensors_(layout.quantized().size()) {}

  /// Returns the decision when these were the tensor's last tiles.
  [[nodiscard]] std::optional<TensorDecision> add(FirstPasses passes);

 private:
  const OutputLayout& layout_;
  std::vector<FirstPasses> tensors_;
};

/// The decision that follows from the sums over a whole tensor.
[[nodiscard]] TensorDecision decide(const QuantizedTensor& tensor, FirstPasses& all);

}  // namespace halfquad
