#pragma once

#include "kernels/cuda/find_part.cuh"
#include "kernels/cuda/quad.cuh"
#include "kernels/cuda/row_block.cuh"

// Groups of 32, 64 or 128 consecutive weights, four threads each. Blocks as in rows_kernel.cu.

namespace halfquad::cuda {

inline constexpr int kQuadGroups = kThreads / kQuad;  ///< Of a block.

/// Floats of shared memory from one group to the next: lanes of a warp find theirs in different banks.
template <int kElems>
inline constexpr int kQuadStride = kElems + kQuad;

/// A lane's elements, all in registers: number i of them is element 4 i + lane of the group. All columns are alike.
template <int kElems>
struct QuadRegisters {
  static constexpr bool kWeighed = false;
  static constexpr int kEach = kElems / kQuad;
  float weights[kEach];

  /// From all of the group's.
  __device__ __forceinline__ void load(const float* row) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) weights[i] = row[kQuad * i + quad_lane()];
  }
  template <class Visit>
  __device__ __forceinline__ void each(const Visit& visit) const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) visit(i);
  }
  [[nodiscard]] __device__ __forceinline__ float w(int i) const { return weights[i]; }

  /// A group that adds nothing anywhere.
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kEach; ++i) weights[i] = 0;
  }
};

/// The same where columns may count differently.
template <int kElems>
struct WeighedRegisters : QuadRegisters<kElems> {
  static constexpr bool kWeighed = true;
  static constexpr int kEach = kElems / kQuad;
  float importance[kEach];

  /// The columns from `column` on, around the end of a row; all alike where `part` says nothing.
  __device__ __forceinline__ void load_importance(const Part& part, bool there, std::int64_t column) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) importance[i] = 1.0F;
    if (!there || part.importance == nullptr) return;
    const auto cols = static_cast<unsigned>(part.tensor_cols);
    const auto first = static_cast<unsigned>(column % part.tensor_cols) + static_cast<unsigned>(quad_lane());
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const unsigned at = first + static_cast<unsigned>(kQuad * i);
      importance[i] = __ldg(part.importance + (at < cols ? at : at % cols));
    }
  }
  [[nodiscard]] __device__ __forceinline__ float h(int i) const { return importance[i]; }
};

/// The groups of a block as floats in shared memory, from where `rows` says (null: zeros). The whole block takes part.
template <Float kSource, int kElems>
__device__ __forceinline__ void load_groups(const unsigned char* const* rows, float* stage) {
  constexpr int kWeights = 16 / kSourceBytes<kSource>;
  constexpr int kVectors = kElems / kWeights;
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < kQuadGroups * kVectors; i += kThreads) {
    const unsigned char* const from = rows[i / kVectors];
    uint4 raw = make_uint4(0, 0, 0, 0);
    if (from != nullptr) raw = __ldg(reinterpret_cast<const uint4*>(from) + i % kVectors);
    float w[kWeights];
    widen<kSource>(raw, w);
    float2* const to = reinterpret_cast<float2*>(stage + i / kVectors * kQuadStride<kElems> + i % kVectors * kWeights);
#pragma unroll
    for (int k = 0; k < kWeights / 2; ++k) to[k] = make_float2(w[2 * k], w[2 * k + 1]);
  }
}

template <int kElems>
__device__ __forceinline__ void load_groups_of(Float source, const unsigned char* const* rows, float* stage) {
  if (source == Float::kBF16) {
    load_groups<Float::kBF16, kElems>(rows, stage);
  } else if (source == Float::kF16) {
    load_groups<Float::kF16, kElems>(rows, stage);
  } else if (source == Float::kF32) {
    load_groups<Float::kF32, kElems>(rows, stage);
  } else {
    load_groups<Float::kF64, kElems>(rows, stage);
  }
}

/// Sums in the order that axis 1 has: running sum k mod 32, of which lane l of eight joins l, l + 8, l + 16 and l + 24.
/// Those of lanes l and l + 4 are a thread's own. visit(i, terms).
template <int kElems, int kSums, class Visit>
__device__ __forceinline__ void sum_in_order(const Visit& visit, float (&total)[kSums]) {
  float lanes[2][kSums], running[kSums], terms[kSums];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
#pragma unroll
      for (int r = 0; r < kElems / 32; ++r) {
        visit(half + 2 * c + 8 * r, terms);
#pragma unroll
        for (int n = 0; n < kSums; ++n) running[n] = r == 0 ? terms[n] : add(running[n], terms[n]);
      }
#pragma unroll
      for (int n = 0; n < kSums; ++n) lanes[half][n] = c == 0 ? running[n] : add(lanes[half][n], running[n]);
    }
  }
#pragma unroll
  for (int n = 0; n < kSums; ++n) {
    total[n] = 0;
#pragma unroll
    for (int l = 0; l < 8; ++l) {
      total[n] = add(total[n], __shfl_sync(kFullWarp, lanes[l / kQuad][n], l % kQuad, kQuad));
    }
  }
}

/// Puts the lane's codes among those of the group at `codes`, and gives its part of the group's errors.
template <int kElems>
__device__ __forceinline__ GroupErrors encode(const QuadRegisters<kElems>& group, const CodeGrid& grid,
                                              float largest_code, unsigned char* codes) {
  GroupErrors errors;
  float total[3];
  sum_in_order<kElems>(
      [&](int i, float(&terms)[3]) {
        const float magic = magic_code(add(mul(group.w(i), grid.S), grid.z), largest_code);
        codes[kQuad * i + quad_lane()] = static_cast<unsigned char>(__float_as_uint(magic) & 0xFFU);
        const float e = sub(group.w(i), mul(sub(sub(magic, kMagic), grid.zero), grid.s));
        terms[0] = fabsf(e);
        terms[1] = mul(e, e);
        terms[2] = mul(group.w(i), group.w(i));
        errors.largest = fmaxf(errors.largest, terms[0]);
      },
      total);
  if (!is_finite(total[0])) errors.largest = kLargestFloat;
  if (quad_lane() == 0) {
    errors.abs = total[0];
    errors.square = total[1];
    errors.weight2 = total[2];
  }
  return errors;
}

template <int kElems>
__device__ __forceinline__ WeightedErrors weighted_errors(const WeighedRegisters<kElems>& group, const CodeGrid& grid,
                                                          float largest_code) {
  float total[2];
  sum_in_order<kElems>([&](int i, float(&terms)[2]) { weigh_error(group.w(i), group.h(i), grid, largest_code, terms); },
                       total);
  if (quad_lane() != 0) return {};
  return {total[0], total[1]};
}

/// The quad's group: its grid, on which nothing is left of one that is not there, and what must not be met in it.
struct FoundGrid {
  Grid grid;
  unsigned met = 0;
};

/// `mine`: there is a group. `Finder`: how its grid is found (the kernels say).
template <class Finder, class Group>
__device__ __forceinline__ FoundGrid find_grid(Group& group, bool mine, const SolveLaunch& launch) {
  Range range;
  group.each([&](int i) { range.add_weight(group.w(i)); });
  range.add_lane(1);
  range.add_lane(2);
  FoundGrid found;
  found.met = mine ? Finder::met_in(range, launch) : 0;
  const bool there = mine && found.met == 0;
  if (!there) {
    group.clear();
    range.lo = range.hi = 0;
  }
  found.grid = Finder::find(group, range, launch);
  if (!there) found.grid.s = found.grid.z = 0;
  return found;
}

/// Leaves all of the group where it belongs, its codes at `codes`.
template <int kElems, class Group>
__device__ __forceinline__ void finish_quad(const Group& group, bool mine, const FoundGrid& found, std::int64_t index,
                                            const Part& part, const SolveLaunch& launch, unsigned char* codes) {
  const CodeGrid code_grid(found.grid, launch);
  add_errors(encode<kElems>(group, code_grid, launch.largest_code, codes), *part.sums);
  if constexpr (Group::kWeighed) {
    if (weighs_errors(part, launch)) {
      add_errors(weighted_errors<kElems>(group, code_grid, launch.largest_code), *part.sums);
    }
  }
  if (!mine) {
#pragma unroll
    for (int i = 0; i < Group::kEach; ++i) codes[kQuad * i + quad_lane()] = 0;
  }
  if (!mine || quad_lane() != 0) return;
  const unsigned met = found.met | code_grid.store(index, part, launch);
  if (met != 0) atomicOr(&part.sums->met, met);
}

template <int kElems, class Finder>
__global__ void __launch_bounds__(kThreads, Finder::blocks(kElems))
    quad_rows_kernel(const __grid_constant__ SolveLaunch launch) {
  __shared__ __align__(16) float stage[kQuadGroups * kQuadStride<kElems>];
  __shared__ const unsigned char* groups[kQuadGroups];
  static_assert(sizeof stage >= kQuadGroups * kCodeStride);
  const Part& part = find_part(launch);
  const int rows = kQuadGroups / launch.slabs;
  const std::int64_t first_row = (static_cast<std::int64_t>(blockIdx.x) - part.first_block) * rows;
  const int index = static_cast<int>(threadIdx.x) / kQuad;
  const int slab = index / rows;
  const std::int64_t row = first_row + index % rows;
  const bool mine = slab < launch.slabs && row < part.rows[slab];
  if (quad_lane() == 0) {
    groups[index] = mine ? part.source[slab] + row * (kElems * source_bytes_of(launch.source)) : nullptr;
  }
  __syncthreads();
  load_groups_of<kElems>(launch.source, groups, stage);
  __syncthreads();

  using Group = typename Finder::template Registers<kElems>;
  Group group;
  group.load(stage + index * kQuadStride<kElems>);
  if constexpr (Group::kWeighed) {
    group.load_importance(part, mine, mine ? part.first_col[slab] + row * kElems : 0);
  }
  const FoundGrid found = find_grid<Finder>(group, mine, launch);
  __syncthreads();  // codes take the place of the weights
  auto* const codes = reinterpret_cast<unsigned char*>(stage) + index * kCodeStride;
  finish_quad<kElems>(group, mine, found, mine ? part.first_group[slab] + row : 0, part, launch, codes);
  __syncthreads();
  pack_block<kElems>(reinterpret_cast<const unsigned char*>(stage), rows, first_row, part, launch);
}

template <class Finder>
cudaError_t launch_quad_rows(int group_elems, const SolveLaunch& launch, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(launch.blocks);
  if (group_elems == 32) quad_rows_kernel<32, Finder><<<blocks, kThreads, 0, stream>>>(launch);
  if (group_elems == 64) quad_rows_kernel<64, Finder><<<blocks, kThreads, 0, stream>>>(launch);
  if (group_elems == 128) quad_rows_kernel<128, Finder><<<blocks, kThreads, 0, stream>>>(launch);
  return cudaGetLastError();
}

}  // namespace halfquad::cuda
