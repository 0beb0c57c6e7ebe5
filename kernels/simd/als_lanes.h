#pragma once

#include <cstddef>

#include "kernels/quant_spec.h"

namespace halfquad::simd {

/// One vector of groups for the search of als_search.h. Arrays hold element k of all groups at k * lanes.
struct AlsLanes {
  const float* w = nullptr;
  const float* h = nullptr;  ///< Null: all 1.
  float* cut_h = nullptr;    ///< Room for as many; not used without `h`.
  float* cut_hd = nullptr;
  std::size_t elems = 0;
  const float* lo = nullptr;  ///< Smallest and largest weight of each group.
  const float* hi = nullptr;
  float* S = nullptr;  ///< Results, one a group.
  float* z = nullptr;
};

}  // namespace halfquad::simd
