#include "kernels/solver.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace halfquad {

void ErrorSums::add(const ErrorSums& other) noexcept {
  abs.add(other.abs);
  square.add(other.square);
  weight2.add(other.weight2);
  max_abs = std::max(max_abs, other.max_abs);
  weighted_square.add(other.weighted_square);
  weighted_weight2.add(other.weighted_weight2);
}

void ErrorSums::add_group(float abs_sum, float square_sum, float weight2_sum, float largest) noexcept {
  abs.add(finite_or_max(abs_sum));
  square.add(finite_or_max(square_sum));
  weight2.add(finite_or_max(weight2_sum));
  max_abs = std::max(max_abs, std::isfinite(abs_sum) ? largest : std::numeric_limits<float>::max());
}

void ErrorSums::add_weighted(float square_sum, float weight2_sum) noexcept {
  weighted_square.add(finite_or_max(square_sum));
  weighted_weight2.add(finite_or_max(weight2_sum));
}

void WeightRange::add(const WeightRange& other) noexcept {
  if (other.lo < lo || (other.lo == lo && std::signbit(other.lo))) lo = other.lo;
  hi = std::max(hi, other.hi);
  nonfinite = nonfinite || other.nonfinite;
}

FixedGrid start_grid(const WeightRange& range, CodeWidth width, bool round_zero) noexcept {
  const float span = range.hi - range.lo;
  // A reciprocal, then a product: two roundings, as in the library.
  float inverse_scale = (1.0F / span) * static_cast<float>(qmax(width));
  if (std::abs(span) <= 1e-4F) inverse_scale = 1.0F;
  inverse_scale = std::min(inverse_scale, 2e4F);
  const float zero = -range.lo * inverse_scale;
  return {
      .inverse_scale = inverse_scale, .scale = 1.0F / inverse_scale, .zero = round_zero ? std::nearbyint(zero) : zero};
}

}  // namespace halfquad
