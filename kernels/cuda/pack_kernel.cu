#include "kernels/cuda/find_part.cuh"
#include "kernels/cuda/launch_shapes.h"

// Packs the codes that the general kernels leave one to a byte. Blocks are the solver's; those of a part share its
// work.

namespace halfquad::cuda {
namespace {

__global__ void __launch_bounds__(kThreads) pack_kernel(const __grid_constant__ SolveLaunch launch, bool by_columns) {
  const Part& part = find_part(launch);
  const std::int64_t index = &part - launch.parts;
  const std::int64_t blocks =
      (index + 1 < launch.part_count ? launch.parts[index + 1].first_block : launch.blocks) - part.first_block;
  const std::int64_t block = static_cast<std::int64_t>(blockIdx.x) - part.first_block;
  const std::int64_t elements = part.packed_rows * part.cols;
  for (std::int64_t i = block * kThreads + threadIdx.x; i < elements; i += blocks * kThreads) {
    const std::int64_t row = i / part.cols;
    unsigned packed = 0;
    for (int slab = 0; slab < launch.slabs; ++slab) {
      // By columns all rows of the group lie back to back in slab 0; what is beyond the last is padding.
      const bool exists = by_columns ? slab * part.packed_rows + row < part.rows[0] : row < part.rows[slab];
      packed = (packed << launch.slab_bits) | (exists ? part.unpacked[slab * elements + i] : 0U);
    }
    if (launch.wide) {
      reinterpret_cast<unsigned*>(part.codes)[i] = packed;
    } else {
      part.codes[i] = static_cast<unsigned char>(packed);
    }
  }
}

}  // namespace

cudaError_t launch_pack(const SolveLaunch& launch, bool by_columns, cudaStream_t stream) {
  pack_kernel<<<static_cast<unsigned>(launch.blocks), kThreads, 0, stream>>>(launch, by_columns);
  return cudaGetLastError();
}

}  // namespace halfquad::cuda
