#pragma once

#include "kernels/cuda/find_part.cuh"
#include "kernels/cuda/general_group.cuh"
#include "kernels/cuda/quad.cuh"

// Groups of consecutive weights of any size. A warp first searches as many groups as it has quads, each quad one, then
// finishes them one after the other. Codes are left unpacked.

namespace halfquad::cuda {

static_assert(kGroupsOfWarp == 32 / kQuad);

/// A lane's elements, read anew whenever they are needed: its numbers are those in the group.
template <Float kSource>
struct QuadMemory {
  const unsigned char* source = nullptr;
  std::int64_t first = 0;
  unsigned elems = 0;
  const float* importance = nullptr;
  unsigned column = 0, cols = 1;

  template <class Visit>
  __device__ __forceinline__ void each(const Visit& visit) const {
    for (unsigned k = static_cast<unsigned>(quad_lane()); k < elems; k += kQuad) visit(k);
  }
  [[nodiscard]] __device__ __forceinline__ float w(unsigned k) const { return load_weight<kSource>(source, first + k); }
  [[nodiscard]] __device__ __forceinline__ float h(unsigned k) const {
    if (importance == nullptr) return 1.0F;
    const unsigned at = column + k;
    return __ldg(importance + (at < cols ? at : at % cols));
  }
};

/// Row `index` among those of all slabs, packed_rows each: its place, and whether it is one of the tensor's.
struct RowPlace {
  GroupPlace place{nullptr, 0, 1, nullptr, 0};
  std::int64_t group = 0, column = 0;
  bool there = false;

  __device__ __forceinline__ RowPlace(std::int64_t index, const Part& part, const SolveLaunch& launch) {
    if (index >= part.packed_rows * launch.slabs) return;
    const std::int64_t slab = index / part.packed_rows, row = index % part.packed_rows;
    if (row >= part.rows[slab]) return;
    place = {part.source[slab], row * part.cols, 1, part.unpacked, index * part.cols};
    group = part.first_group[slab] + row;
    if (part.importance != nullptr) column = (part.first_col[slab] + row * part.cols) % part.tensor_cols;
    there = true;
  }
};

template <class Elements>
__device__ __forceinline__ Elements elements_of(const RowPlace& row, const Part& part) {
  Elements elements;
  if (!row.there) return elements;
  elements.source = row.place.source;
  elements.first = row.place.first;
  elements.elems = static_cast<unsigned>(part.cols);
  elements.importance = part.importance;
  elements.column = static_cast<unsigned>(row.column);
  elements.cols = static_cast<unsigned>(part.tensor_cols);
  return elements;
}

/// By the whole warp: adds the weighted errors of a group that has been finished.
template <Float kSource>
__device__ __forceinline__ void add_weighted_errors(const WarpWalk& walk, const QuadMemory<kSource>& elements,
                                                    const CodeGrid& grid, const SolveLaunch& launch, TileSums& sums) {
  float total[2];
  walk.sum([&](unsigned k,
               float(&terms)[2]) { weigh_error(elements.w(k), elements.h(k), grid, launch.largest_code, terms); },
           total);
  const bool first_lane = (threadIdx.x & 31U) == 0;
  add_errors(first_lane ? WeightedErrors{total[0], total[1]} : WeightedErrors{}, sums);
}

/// `Finder`: how grids are found (the kernels say).
template <Float kSource, class Finder>
__global__ void __launch_bounds__(kThreads, Finder::kBlocks)
    quad_general_kernel(const __grid_constant__ SolveLaunch launch) {
  const Part& part = find_part(launch);
  const std::int64_t warp =
      (static_cast<std::int64_t>(blockIdx.x) - part.first_block) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const std::int64_t first = warp * kGroupsOfWarp;
  const int quad = static_cast<int>(threadIdx.x & 31U) / kQuad;
  Grid found;
  unsigned met = 0;
  {
    const RowPlace row(first + quad, part, launch);
    auto elements = elements_of<typename Finder::template Memory<kSource>>(row, part);
    Range range;
    elements.each([&](unsigned k) { range.add_weight(elements.w(k)); });
    __syncwarp();
    range.add_lane(1);
    range.add_lane(2);
    met = row.there ? Finder::met_in(range, launch) : 0;
    if (!row.there || met != 0) {
      elements.elems = 0;
      range.lo = range.hi = 0;
    }
    if (met != 0 && quad_lane() == 0) atomicOr(&part.sums->met, met);
    __syncwarp();
    found = Finder::find(elements, range, launch);
  }
  for (int q = 0; q < kGroupsOfWarp; ++q) {
    Grid grid;
    grid.S = __shfl_sync(kFullWarp, found.S, q * kQuad);
    grid.s = __shfl_sync(kFullWarp, found.s, q * kQuad);
    grid.z = __shfl_sync(kFullWarp, found.z, q * kQuad);
    const RowPlace row(first + q, part, launch);
    if (!row.there || __shfl_sync(kFullWarp, met, q * kQuad) != 0) continue;
    const WarpWalk walk{static_cast<unsigned>(part.cols)};
    const auto elements = elements_of<QuadMemory<kSource>>(row, part);
    Finder::fit_to_stored(walk, elements, launch, grid);
    finish_by_warp<kSource>(walk, row.place, grid, row.group, part, launch);
    if (!weighs_errors(part, launch)) continue;
    add_weighted_errors(walk, elements, CodeGrid(grid, launch), launch, *part.sums);
  }
}

template <class Finder>
cudaError_t launch_quad_general(const SolveLaunch& launch, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(launch.blocks);
  const auto kernel = launch.source == Float::kF32    ? quad_general_kernel<Float::kF32, Finder>
                      : launch.source == Float::kF16  ? quad_general_kernel<Float::kF16, Finder>
                      : launch.source == Float::kBF16 ? quad_general_kernel<Float::kBF16, Finder>
                                                      : quad_general_kernel<Float::kF64, Finder>;
  kernel<<<blocks, kThreads, 0, stream>>>(launch);
  return cudaGetLastError();
}

}  // namespace halfquad::cuda
