#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/column_importance.h"

namespace halfquad {

/// The errors of a layer by its columns, from which its weighted error follows once the weights of columns are known,
/// even those that only the whole layer tells.
class ColumnErrors {
 public:
  explicit ColumnErrors(std::int64_t cols)
      : moments_(cols), square_(static_cast<std::size_t>(cols)), weight2_(square_.size()) {}

  /// Elements that follow each other in the rows of the layer, the first of them in column `first_col`.
  void add(std::span<const float> weights, std::span<const float> restored, std::int64_t first_col);

  /// sqrt(sum h (w - ŵ)² / sum h w²), h being what the columns say themselves in a layer of `rows` rows.
  [[nodiscard]] std::optional<double> weighted_by_themselves(std::int64_t rows, double power);
  /// The same for given weights, one a column. Nothing when all weights are zero.
  [[nodiscard]] std::optional<double> weighted_by(std::span<const float> h) const;

 private:
  ColumnMoments moments_;
  std::vector<double> square_, weight2_;
};

}  // namespace halfquad
