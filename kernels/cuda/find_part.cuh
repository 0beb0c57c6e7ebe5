#pragma once

#include "kernels/cuda/solve_kernels.h"

namespace halfquad::cuda {

/// The one of `count` entries, ascending by first_block, that this block belongs to.
template <class Entry>
__device__ __forceinline__ const Entry& find_entry(const Entry* entries, int count) {
  int low = 0, high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (entries[middle].first_block <= static_cast<std::int64_t>(blockIdx.x)) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return entries[low];
}

/// The part that this block belongs to.
__device__ __forceinline__ const Part& find_part(const SolveLaunch& launch) {
  return find_entry(launch.parts, launch.part_count);
}

}  // namespace halfquad::cuda
