#pragma once

#include "kernels/cuda/group_grid.cuh"

// A group whose weights lie in a thread's registers: straight-line code for every step, in the canonical order of sums.

namespace halfquad::cuda {

/// Groups of consecutive weights: element k belongs to running sum k mod 32; the sums l, l + 8, l + 16 and l + 24 are
/// joined to lane l, the lanes to the total. Up to 128 elements no running sum is closed in between.
template <int kElems>
struct RowOrder {
  static_assert(kElems % 32 == 0 && kElems <= 512);
  static constexpr int kPasses = 8;  ///< Stretches of the sum that look alike, up to a rotation of the elements ...
  static constexpr int kTurn = 8;    ///< ... by one within each block of this many ...
  static constexpr int kBy = 1;

  /// Adds one pass to `total`. visit(k, terms) gives the terms of element k.
  template <int kSums, class Visit>
  static __device__ __forceinline__ void add_pass(int pass, const Visit& visit, float (&total)[kSums]) {
    float lane[kSums], running[kSums], terms[kSums];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
#pragma unroll
      for (int r = 0; r < kElems / 32; ++r) {
        visit(pass + 8 * c + 32 * r, terms);
#pragma unroll
        for (int i = 0; i < kSums; ++i) running[i] = r == 0 ? terms[i] : add(running[i], terms[i]);
      }
#pragma unroll
      for (int i = 0; i < kSums; ++i) lane[i] = c == 0 ? running[i] : add(lane[i], running[i]);
    }
#pragma unroll
    for (int i = 0; i < kSums; ++i) total[i] = add(total[i], lane[i]);
  }
};

/// Groups of weights a row apart: one running sum, closed every 16 elements.
template <int kElems>
struct ColumnOrder {
  static_assert(kElems % 16 == 0 && kElems <= 256);
  static constexpr int kPasses = kElems / 16;
  static constexpr int kTurn = kElems;
  static constexpr int kBy = 16;

  template <int kSums, class Visit>
  static __device__ __forceinline__ void add_pass(int pass, const Visit& visit, float (&total)[kSums]) {
    float running[kSums], terms[kSums];
#pragma unroll
    for (int k = 0; k < 16; ++k) {
      visit(16 * pass + k, terms);
#pragma unroll
      for (int i = 0; i < kSums; ++i) running[i] = k == 0 ? terms[i] : add(running[i], terms[i]);
    }
#pragma unroll
    for (int i = 0; i < kSums; ++i) total[i] = add(total[i], running[i]);
  }
};

/// Sums over all elements, unrolled.
template <class Order, int kSums, class Visit>
__device__ __forceinline__ void sum_unrolled(const Visit& visit, float (&total)[kSums]) {
#pragma unroll
  for (int i = 0; i < kSums; ++i) total[i] = 0;
#pragma unroll
  for (int pass = 0; pass < Order::kPasses; ++pass) Order::add_pass(pass, visit, total);
}

/// The same for terms that take many instructions: one pass in code, and the weights pass by. visit(w, terms).
template <class Order, int kElems, int kSums, class Visit>
__device__ __forceinline__ void sum_rolled(float (&w)[kElems], const Visit& visit, float (&total)[kSums]) {
  constexpr int kTurn = Order::kTurn, kBy = Order::kBy;
#pragma unroll
  for (int i = 0; i < kSums; ++i) total[i] = 0;
#pragma unroll 1
  for (int pass = 0; pass < Order::kPasses; ++pass) {
    Order::add_pass(
        0, [&](int k, float(&terms)[kSums]) { visit(w[k], terms); }, total);
#pragma unroll
    for (int block = 0; block < kElems; block += kTurn) {
      float first[kBy];
#pragma unroll
      for (int k = 0; k < kBy; ++k) first[k] = w[block + k];
#pragma unroll
      for (int k = 0; k + kBy < kTurn; ++k) w[block + k] = w[block + k + kBy];
#pragma unroll
      for (int k = 0; k < kBy; ++k) w[block + kTurn - kBy + k] = first[k];
    }
  }
}

enum class Clamp { kNo, kYes };

/// What one element adds in a step without shrinkage: q - w * S, and |e| when errors are wanted.
template <Clamp kClamp, bool kErrors, int kSums>
__device__ __forceinline__ void plain_terms(float w, const Grid& grid, float largest_code, float (&terms)[kSums]) {
  const float scaled = mul(w, grid.S);
  const float x = add(scaled, grid.z);
  const float q = sub(kClamp == Clamp::kYes ? magic_code(x, largest_code) : add(x, kMagic), kMagic);
  terms[0] = sub(q, scaled);
  if constexpr (kErrors) terms[1] = fabsf(sub(w, mul(sub(q, grid.z), grid.s)));
}

/// The same where the shrinkage may be active.
template <bool kErrors, int kSums>
__device__ __forceinline__ void shrink_terms(float w, const Grid& grid, const StepValues& step,
                                             const SolveLaunch& launch, float (&terms)[kSums]) {
  const float scaled = mul(w, grid.S);
  const float q = sub(magic_code(add(scaled, grid.z), launch.largest_code), kMagic);
  const float e = sub(w, mul(sub(q, grid.z), grid.s));
  terms[0] = sub(q, scaled);
  if (fabsf(e) > step.inert_threshold) {
    terms[0] = sub(q, mul(sub(w, shrink(e, step.inv_beta, launch)), grid.S));
  }
  if constexpr (kErrors) terms[1] = fabsf(e);
}

/// A step without shrinkage.
template <class Order, int kElems, int kSums>
__device__ __forceinline__ void sum_plain(const float (&w)[kElems], const Grid& grid, float largest_code,
                                          float (&total)[kSums]) {
  constexpr bool kErrors = kSums == 2;
  if (__all_sync(kFullWarp, !grid.clamps(largest_code))) {
    sum_unrolled<Order>(
        [&](int k, float(&terms)[kSums]) { plain_terms<Clamp::kNo, kErrors>(w[k], grid, largest_code, terms); }, total);
  } else {
    sum_unrolled<Order>(
        [&](int k, float(&terms)[kSums]) { plain_terms<Clamp::kYes, kErrors>(w[k], grid, largest_code, terms); },
        total);
  }
}

/// Runs the steps; only grid.z moves. Returns the steps after which no zero of the warp changes any more.
/// The whole warp takes part: a thread without a group has zeros and a scale of zero, which add nothing.
template <class Order, bool kErrors, int kElems>
__device__ __forceinline__ int run_steps(float (&w)[kElems], Grid& grid, const SolveLaunch& launch, StepSums sums) {
  static_assert((kElems & (kElems - 1)) == 0, "the mean is a product");
  if (launch.iters == 0) return 0;
  const float last_threshold = __ldg(&launch.steps[launch.iters - 1].inert_threshold);
  float total[kErrors ? 2 : 1] = {};
  int t = 0;
  float bound = grid.error_bound(launch.largest_code);
  // Ends a step. Should every z repeat with no shrinkage up to the last step, whose threshold is the lowest, so do all
  // the steps that are left.
  const auto end_step = [&]() {
    const float z = mul(total[0], 1.0F / kElems);
    const bool repeats =
        launch.exit_at_fixed_point && __all_sync(kFullWarp, same_bits(z, grid.z) && bound <= last_threshold) != 0;
    if constexpr (kErrors) sums.put(t, total[1]);
    if (!repeats) ++t;
    grid.z = z;
    bound = grid.error_bound(launch.largest_code);
    return repeats;
  };
  bool repeats = false;
  while (!repeats && t < launch.iters) {
    // Weights that pass by in one loop stay where they are in the other.
    while (!repeats && t < launch.iters &&
           __all_sync(kFullWarp, bound <= __ldg(&launch.steps[t].inert_threshold)) != 0) {
      sum_plain<Order>(w, grid, launch.largest_code, total);
      repeats = end_step();
    }
    if (repeats || t == launch.iters) break;
    const StepValues step = {__ldg(&launch.steps[t].inv_beta), __ldg(&launch.steps[t].inert_threshold)};
    sum_rolled<Order>(
        w,
        [&](float weight, float(&terms)[kErrors ? 2 : 1]) { shrink_terms<kErrors>(weight, grid, step, launch, terms); },
        total);
    repeats = end_step();
  }
  if constexpr (kErrors) {
    for (int u = t + 1; u < launch.iters; ++u) sums.put(u, total[1]);
    sums.finish(launch.iters);
  }
  return t;
}

/// Codes of a group, four to a word, and its errors.
template <class Order, int kElems>
__device__ __forceinline__ GroupErrors encode(const float (&w)[kElems], const CodeGrid& grid, float largest_code,
                                              unsigned (&codes)[kElems / 4]) {
  GroupErrors errors;
#pragma unroll
  for (int i = 0; i < kElems / 4; ++i) codes[i] = 0;
  float total[3];
  sum_unrolled<Order>(
      [&](int k, float(&terms)[3]) {
        const float magic = magic_code(add(mul(w[k], grid.S), grid.z), largest_code);
        // Byte k mod 4 of the word from the code's low byte.
        constexpr unsigned kInsert[4] = {0x3214, 0x3240, 0x3410, 0x4210};
        codes[k / 4] = __byte_perm(codes[k / 4], __float_as_uint(magic), kInsert[k % 4]);
        const float e = sub(w[k], mul(sub(sub(magic, kMagic), grid.zero), grid.s));
        terms[0] = fabsf(e);
        terms[1] = mul(e, e);
        terms[2] = mul(w[k], w[k]);
        errors.largest = fmaxf(errors.largest, terms[0]);
      },
      total);
  errors.abs = total[0];
  errors.square = total[1];
  errors.weight2 = total[2];
  return errors;
}

/// Solves the group in `w` and leaves all but its codes where they belong: scale and zero at `group`, errors in the
/// part's sums. `mine`: the thread has a group. `step_rows`: see StepSums. The whole warp takes part.
template <class Order, bool kErrors, int kElems>
__device__ __forceinline__ void solve_group(float (&w)[kElems], bool mine, std::int64_t group, const Part& part,
                                            const SolveLaunch& launch, float* step_rows,
                                            unsigned (&codes)[kElems / 4]) {
  Range range;
#pragma unroll
  for (int k = 0; k < kElems; ++k) range.add_weight(w[k]);
  range.settle_zero();
  unsigned met = met_in(range, launch);
  Grid grid = first_grid(range, part, launch);
  if (!mine || met != 0) {  // adds nothing anywhere, whatever the step
#pragma unroll
    for (int k = 0; k < kElems; ++k) w[k] = 0;
    grid = Grid{};
    grid.s = 0;
  }

  const int settled = run_steps<Order, kErrors>(w, grid, launch, StepSums(step_rows, part.step_abs));
  const CodeGrid code_grid(grid, launch);
  add_errors(encode<Order>(w, code_grid, launch.largest_code, codes), *part.sums);
  if (mine && !launch.given_grid) met |= code_grid.store(group, part, launch);
  if (mine && met != 0) atomicOr(&part.sums->met, met);
  if ((threadIdx.x & 31U) == 0) atomicMax(&part.sums->settled, settled);
}

}  // namespace halfquad::cuda
