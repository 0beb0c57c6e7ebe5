#include "kernels/cuda/als_group.cuh"
#include "kernels/cuda/find_part.cuh"
#include "kernels/cuda/general_group.cuh"

// Groups of consecutive weights of any size, searched by als. A warp first searches as many groups as it has quads,
// each quad one, then finishes them one after the other. Codes are left unpacked.

namespace halfquad::cuda {
namespace {

static_assert(kGroupsOfWarp == 32 / kQuad);

/// A lane's elements, read anew whenever they are needed: its numbers are those in the group.
template <Float kSource>
struct QuadMemory {
  const unsigned char* source = nullptr;
  std::int64_t first = 0;
  unsigned elems = 0;
  const float* importance = nullptr;
  unsigned column = 0, cols = 1;
  float mean = 0, S1 = 1;
  Cut by_h, by_hd;

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
  [[nodiscard]] __device__ __forceinline__ float cut_h(unsigned k) const { return cut(h(k), by_h); }
  [[nodiscard]] __device__ __forceinline__ float cut_hd(unsigned k) const {
    return cut(mul(cut_h(k), mul(sub(w(k), mean), S1)), by_hd);
  }
  __device__ __forceinline__ void begin_fits(float weighted_mean, float inverse_scale, const SolveLaunch& launch) {
    mean = weighted_mean;
    S1 = inverse_scale;
    by_h = launch.cut_h;
    by_hd = launch.cut_hd;
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

template <Float kSource>
__device__ __forceinline__ QuadMemory<kSource> elements_of(const RowPlace& row, const Part& part) {
  QuadMemory<kSource> elements;
  if (!row.there) return elements;
  elements.source = row.place.source;
  elements.first = row.place.first;
  elements.elems = static_cast<unsigned>(part.cols);
  elements.importance = part.importance;
  elements.column = static_cast<unsigned>(row.column);
  elements.cols = static_cast<unsigned>(part.tensor_cols);
  return elements;
}

/// By the whole warp: the zero that fits the scale as it will be stored.
template <Float kSource>
__device__ __forceinline__ void refit_zero(const WarpWalk& walk, const QuadMemory<kSource>& elements,
                                           const SolveLaunch& launch, Grid& grid) {
  const float inverse = div(1.0F, grid.s);
  float sums[3];
  walk.sum(
      [&](unsigned k, float(&terms)[3]) {
        const float w = elements.w(k), h = elements.h(k);
        terms[0] = h;
        terms[1] = mul(h, w);
        terms[2] = mul(h, clamped_code(add(mul(w, inverse), grid.z), 0.0F, launch.largest_code));
      },
      sums);
  const float stored_s = fmaxf(round_to(launch.stored, grid.s), kLeastScale);
  grid.z = sub(div(sums[2], sums[0]), div(div(sums[1], sums[0]), stored_s));
}

/// Likewise: adds the weighted errors of a group that has been finished.
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

template <Float kSource>
__global__ void __launch_bounds__(kThreads, kOccupancy.als_general)
    als_general_kernel(const __grid_constant__ SolveLaunch launch) {
  const Part& part = find_part(launch);
  const std::int64_t warp =
      (static_cast<std::int64_t>(blockIdx.x) - part.first_block) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const std::int64_t first = warp * kGroupsOfWarp;
  const int quad = static_cast<int>(threadIdx.x & 31U) / kQuad;
  AlsPair pair;
  unsigned met = 0;
  {
    const RowPlace row(first + quad, part, launch);
    QuadMemory<kSource> elements = elements_of<kSource>(row, part);
    Range range;
    elements.each([&](unsigned k) { range.add_weight(elements.w(k)); });
    __syncwarp();
    range.add_lane(1);
    range.add_lane(2);
    met = row.there ? met_in(range, launch) : 0;
    if (!row.there || met != 0) {
      elements.elems = 0;
      range.lo = range.hi = 0;
    }
    if (met != 0 && quad_lane() == 0) atomicOr(&part.sums->met, met);
    __syncwarp();
    pair = search_als(elements, range, launch);
  }
  for (int q = 0; q < kGroupsOfWarp; ++q) {
    Grid grid;
    grid.S = __shfl_sync(kFullWarp, pair.S, q * kQuad);
    grid.z = __shfl_sync(kFullWarp, pair.z, q * kQuad);
    const RowPlace row(first + q, part, launch);
    if (!row.there || __shfl_sync(kFullWarp, met, q * kQuad) != 0) continue;
    grid.s = div(1.0F, grid.S);
    const WarpWalk walk{static_cast<unsigned>(part.cols)};
    const QuadMemory<kSource> elements = elements_of<kSource>(row, part);
    if (launch.form != Form::kAsFound) refit_zero(walk, elements, launch, grid);
    finish_by_warp<kSource>(walk, row.place, grid, row.group, part, launch);
    if (!weighs_errors(part, launch)) continue;
    add_weighted_errors(walk, elements, CodeGrid(grid, launch), launch, *part.sums);
  }
}

}  // namespace

cudaError_t launch_als_general_rows(const SolveLaunch& launch, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(launch.blocks);
  const auto kernel = launch.source == Float::kF32    ? als_general_kernel<Float::kF32>
                      : launch.source == Float::kF16  ? als_general_kernel<Float::kF16>
                      : launch.source == Float::kBF16 ? als_general_kernel<Float::kBF16>
                                                      : als_general_kernel<Float::kF64>;
  kernel<<<blocks, kThreads, 0, stream>>>(launch);
  return cudaGetLastError();
}

}  // namespace halfquad::cuda
