#pragma once

#include <vector>

#include "kernels/solver.h"

namespace halfquad {

/// The search of als_search.h for one group: its weights, their importance and their range, which is finite.
[[nodiscard]] FixedGrid search_als(const std::vector<float>& w, const std::vector<float>& h, const WeightRange& range,
                                   const QuantSpec& spec);

}  // namespace halfquad
