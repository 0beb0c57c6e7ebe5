#include "sharding/column_errors.h"

#include <cmath>

#include "runtime/check.h"

namespace halfquad {

void ColumnErrors::add(std::span<const float> weights, std::span<const float> restored, std::int64_t first_col) {
  HALFQUAD_DCHECK(weights.size() == restored.size());
  moments_.add(reinterpret_cast<const std::byte*>(weights.data()), DType::kF32, first_col,
               static_cast<std::int64_t>(weights.size()));
  auto col = static_cast<std::size_t>(first_col);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double w = weights[i];
    const double e = w - double{restored[i]};
    square_[col] += e * e;
    weight2_[col] += w * w;
    col = col + 1 == square_.size() ? 0 : col + 1;
  }
}

std::optional<double> ColumnErrors::weighted_by_themselves(std::int64_t rows, double power) {
  return weighted_by(column_importance(moments_, rows, {.power = power}));
}

std::optional<double> ColumnErrors::weighted_by(std::span<const float> h) const {
  double square = 0;
  double weight2 = 0;
  for (std::size_t col = 0; col < square_.size(); ++col) {
    square += double{h[col]} * square_[col];
    weight2 += double{h[col]} * weight2_[col];
  }
  if (!(weight2 > 0)) return std::nullopt;
  return std::sqrt(square / weight2);
}

}  // namespace halfquad
