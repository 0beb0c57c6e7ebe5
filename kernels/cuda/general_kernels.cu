#include "kernels/cuda/find_part.cuh"
#include "kernels/cuda/general_group.cuh"
#include "kernels/cuda/launch_shapes.h"

// Groups of any size. Codes are left unpacked.

namespace halfquad::cuda {
namespace {

/// One group by the whole warp.
template <Float kSource>
__device__ __forceinline__ void solve_by_warp(const WarpWalk& walk, const GroupPlace& place, std::int64_t group,
                                              const Part& part, const SolveLaunch& launch, GroupStepSums& sums) {
  const bool first_lane = (threadIdx.x & 31U) == 0;
  Range range = range_of<kSource>(walk, place);
  __syncwarp();
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) range.add_lane(distance);
  range.settle_zero();
  if (const unsigned met = met_in(range, launch); met != 0) {
    if (first_lane) atomicOr(&part.sums->met, met);
    return;
  }

  Grid grid = first_grid(range, part, launch);
  const float last_threshold = launch.iters > 0 ? __ldg(&launch.steps[launch.iters - 1].inert_threshold) : 0.0F;
  int settled = launch.iters;
  for (int t = 0; t < launch.iters; ++t) {
    const StepValues step = {__ldg(&launch.steps[t].inv_beta), __ldg(&launch.steps[t].inert_threshold)};
    const bool inert = grid.error_bound(launch.largest_code) <= last_threshold;
    float total[2];
    sum_step<kSource>(walk, place, grid, step, launch, total);
    const float z = div(total[0], static_cast<float>(walk.elems));
    const bool repeats = launch.exit_at_fixed_point && inert && same_bits(z, grid.z);
    for (int u = t; launch.record && u < (repeats ? launch.iters : t + 1); ++u) sums.put(u, total[1]);
    if (repeats) {
      settled = t;
      break;
    }
    grid.z = z;
  }

  finish_by_warp<kSource>(walk, place, grid, group, part, launch);
  if (first_lane) atomicMax(&part.sums->settled, settled);
}

template <Float kSource>
__global__ void __launch_bounds__(kThreads, kOccupancy.general)
    general_rows_kernel(const __grid_constant__ SolveLaunch launch) {
  const Part& part = find_part(launch);
  const std::int64_t warp =
      (static_cast<std::int64_t>(blockIdx.x) - part.first_block) * kWarps + static_cast<int>(threadIdx.x) / 32;
  GroupStepSums sums(part.step_abs);
  std::int64_t index = warp * kGroupsOfWarp;  // among the rows of all slabs, packed_rows each
  const std::int64_t end = min(index + kGroupsOfWarp, part.packed_rows * launch.slabs);
  for (; index < end; ++index) {
    const std::int64_t slab = index / part.packed_rows, row = index % part.packed_rows;
    if (row >= part.rows[slab]) continue;
    const GroupPlace place = {part.source[slab], row * part.cols, 1, part.unpacked, index * part.cols};
    solve_by_warp<kSource>(WarpWalk{static_cast<unsigned>(part.cols)}, place, part.first_group[slab] + row, part,
                           launch, sums);
  }
  sums.flush();
}

/// The only column of a tile, by one warp.
template <Float kSource>
__global__ void __launch_bounds__(32) one_column_kernel(const __grid_constant__ SolveLaunch launch) {
  const Part& part = find_part(launch);
  GroupStepSums sums(part.step_abs);
  const GroupPlace place = {part.source[0], 0, 1, part.unpacked, 0};
  solve_by_warp<kSource>(WarpWalk{static_cast<unsigned>(part.rows[0])}, place, 0, part, launch, sums);
  sums.flush();
}

/// One group by each thread; the warp adds up together.
template <Float kSource>
__global__ void __launch_bounds__(kThreads, kOccupancy.general)
    general_columns_kernel(const __grid_constant__ SolveLaunch launch) {
  __shared__ float step_rows[kWarps * kStepFloats];
  const Part& part = find_part(launch);
  const std::int64_t column = (static_cast<std::int64_t>(blockIdx.x) - part.first_block) * kThreads + threadIdx.x;
  const auto elems = static_cast<unsigned>(part.rows[0]);
  const bool inside = column < part.cols;
  const GroupPlace place = {part.source[0], column, part.cols, part.unpacked, column};
  ThreadWalk walk{inside ? elems : 0};  // no elements: adds nothing
  Range range = range_of<kSource>(walk, place);
  range.settle_zero();
  unsigned met = inside ? met_in(range, launch) : 0;
  Grid grid;
  if (met != 0 || !inside) {
    walk.elems = 0;
    grid.s = 0;
  } else {
    grid.start(range, launch);
  }

  __syncwarp();
  StepSums sums(step_rows + static_cast<int>(threadIdx.x) / 32 * kStepFloats, part.step_abs);
  const float last_threshold = launch.iters > 0 ? __ldg(&launch.steps[launch.iters - 1].inert_threshold) : 0.0F;
  int settled = launch.iters;
  for (int t = 0; t < launch.iters; ++t) {
    const StepValues step = {__ldg(&launch.steps[t].inv_beta), __ldg(&launch.steps[t].inert_threshold)};
    const bool inert = grid.error_bound(launch.largest_code) <= last_threshold;
    float total[2];
    sum_step<kSource>(walk, place, grid, step, launch, total);
    const float z = div(total[0], static_cast<float>(elems));
    __syncwarp();
    const bool repeats = launch.exit_at_fixed_point && __all_sync(kFullWarp, inert && same_bits(z, grid.z)) != 0;
    for (int u = t; launch.record && u < (repeats ? launch.iters : t + 1); ++u) sums.put(u, total[1]);
    if (repeats) {
      settled = t;
      break;
    }
    grid.z = z;
  }
  if (launch.record) sums.finish(launch.iters);

  const CodeGrid code_grid(grid, launch);
  const GroupErrors errors = encode<kSource>(walk, place, code_grid, launch);
  if (walk.elems > 0) met |= code_grid.store(column, part, launch);
  __syncwarp();
  add_errors(errors, *part.sums);
  if (met != 0) atomicOr(&part.sums->met, met);
  if ((threadIdx.x & 31U) == 0) atomicMax(&part.sums->settled, settled);
}

/// Starts `kernel` of the launch's source type.
template <class Kernel>
cudaError_t start(const SolveLaunch& launch, int threads, cudaStream_t stream, Kernel f32, Kernel f16, Kernel bf16,
                  Kernel f64) {
  const auto blocks = static_cast<unsigned>(launch.blocks);
  const Kernel kernel = launch.source == Float::kF32    ? f32
                        : launch.source == Float::kF16  ? f16
                        : launch.source == Float::kBF16 ? bf16
                                                        : f64;
  kernel<<<blocks, threads, 0, stream>>>(launch);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_general_rows(const SolveLaunch& launch, cudaStream_t stream) {
  return start(launch, kThreads, stream, general_rows_kernel<Float::kF32>, general_rows_kernel<Float::kF16>,
               general_rows_kernel<Float::kBF16>, general_rows_kernel<Float::kF64>);
}

cudaError_t launch_one_column(const SolveLaunch& launch, cudaStream_t stream) {
  return start(launch, 32, stream, one_column_kernel<Float::kF32>, one_column_kernel<Float::kF16>,
               one_column_kernel<Float::kBF16>, one_column_kernel<Float::kF64>);
}

cudaError_t launch_general_columns(const SolveLaunch& launch, cudaStream_t stream) {
  return start(launch, kThreads, stream, general_columns_kernel<Float::kF32>, general_columns_kernel<Float::kF16>,
               general_columns_kernel<Float::kBF16>, general_columns_kernel<Float::kF64>);
}

}  // namespace halfquad::cuda
