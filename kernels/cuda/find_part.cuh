#pragma once

#include "kernels/cuda/solve_kernels.h"

namespace halfquad::cuda {

/// The part that this block belongs to.
__device__ __forceinline__ const Part& find_part(const SolveLaunch& launch) {
  int low = 0, high = launch.part_count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (launch.parts[middle].first_block <= static_cast<std::int64_t>(blockIdx.x)) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return launch.parts[low];
}

}  // namespace halfquad::cuda
