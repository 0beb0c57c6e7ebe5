#pragma once

#include <vector>

#include "kernels/solver.h"

namespace halfquad {

/// The search of als_search.h for one group: its weights, their importance and their range, which is finite.
[[nodiscard]] FixedGrid search_als(const std::vector<float>& w, const std::vector<float>& h, const WeightRange& range,
                                   const QuantSpec& spec);
/// The search of als_search.h for a whole zero, in place of search_integer_zero() where columns are weighed; false when
/// the extended range is beyond fp32.
[[nodiscard]] bool search_als_whole(const std::vector<float>& w, const std::vector<float>& h, const WeightRange& range,
                                    const QuantSpec& spec, FixedGrid& grid);

}  // namespace halfquad
