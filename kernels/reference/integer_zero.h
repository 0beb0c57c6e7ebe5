#pragma once

#include <span>

#include "kernels/quant_spec.h"
#include "kernels/solver.h"

namespace halfquad {

/// Scale and whole zero of one group of finite weights by IntegerZeroSearch, in plain loops: the definition. `range` is
/// that of the weights. False when the range to cover is beyond fp32; `grid` is then left as it was.
[[nodiscard]] bool search_integer_zero(std::span<const float> weights, const WeightRange& range, const QuantSpec& spec,
                                       FixedGrid& grid);

}  // namespace halfquad
