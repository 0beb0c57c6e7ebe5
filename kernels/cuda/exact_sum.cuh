#pragma once

#include "kernels/cuda/arithmetic.cuh"

// Exact sums of non-negative floats, as kernels/exact_sum.h defines them. They are gathered
// in a lane or a warp first, as one integer beginning at a digit, then in memory.

namespace halfquad::cuda {

/// A sum of floats on its way to an exact sum in memory: sum * 2^(32 at) in units of 2^-149, at most 256 of them.
struct PartialSum {
  int at = 0;
  Digit sum = 0;

  /// Of one float, which counts as the largest one when it is not finite.
  static __device__ __forceinline__ PartialSum of(float value) {
    const unsigned bits = __float_as_uint(is_finite(value) ? value : kLargestFloat);
    const unsigned exponent = bits >> 23;
    const unsigned fraction = bits & 0x7FFFFFU;
    const unsigned shift = exponent == 0 ? 0 : exponent - 1;
    return {static_cast<int>(shift >> 5), static_cast<Digit>(exponent == 0 ? fraction : fraction | 0x800000U)
                                              << (shift & 31U)};
  }

  __device__ __forceinline__ void add_to(Digit* total) const {
    if (sum == 0) return;
    atomicAdd(total + at, sum & 0xFFFFFFFFU);
    if ((sum >> 32) != 0) atomicAdd(total + at + 1, sum >> 32);
  }

  /// Adds `other`; when it lies elsewhere what is here goes to memory first.
  __device__ __forceinline__ void add(const PartialSum& other, Digit* total) {
    if (other.at != at && other.sum != 0) {
      add_to(total);
      *this = other;
    } else {
      sum += other.sum;
    }
  }
};

/// Adds every lane's value to a sum in memory. The whole warp takes part; lanes without a value give 0.
__device__ __forceinline__ void add_lanes(float value, Digit* total) {
  const PartialSum mine = PartialSum::of(value);
  unsigned left = __ballot_sync(kFullWarp, mine.sum != 0);
  while (left != 0) {  // once for all lanes with the same `at`: mostly once
    const int at = __shfl_sync(kFullWarp, mine.at, __ffs(static_cast<int>(left)) - 1);
    const Digit same = mine.at == at ? mine.sum : 0;
    left &= ~__ballot_sync(kFullWarp, same != 0);
    // Pieces of which 32 fit a word.
    const auto low = static_cast<unsigned>(same & 0xFFFFFFU), middle = static_cast<unsigned>((same >> 24) & 0xFFFFFFU);
    PartialSum part;
    part.at = at;
    part.sum = __reduce_add_sync(kFullWarp, low);
    part.sum += static_cast<Digit>(__reduce_add_sync(kFullWarp, middle)) << 24;
    part.sum += static_cast<Digit>(__reduce_add_sync(kFullWarp, static_cast<unsigned>(same >> 48))) << 48;
    if ((threadIdx.x & 31U) == 0) part.add_to(total);
  }
}

/// Floats of shared memory for each warp with StepSums. Rows lie an odd number apart, so that a column has them all in
/// different banks.
inline constexpr int kStepRow = 33;
inline constexpr int kStepFloats = 32 * kStepRow;

/// Error sums of the steps of a warp's groups, one to a lane. They are gathered for 32 steps, then each lane adds up
/// one step.
class StepSums {
 public:
  /// `rows`: kStepFloats of the warp's own.
  __device__ __forceinline__ StepSums(float* rows, Digit* step_abs) : rows_(rows), step_abs_(step_abs) {}

  /// Every lane's error before step t; zero where there is no group. The whole warp takes part, step after step.
  __device__ __forceinline__ void put(int t, float value) {
    rows_[(t & 31) * kStepRow + lane()] = value;
    if ((t & 31) == 31) add_up(t - 31, 32);
  }
  /// After the last step.
  __device__ __forceinline__ void finish(int steps) {
    if ((steps & 31) != 0) add_up(steps & ~31, steps & 31);
  }

 private:
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x & 31U); }

  __device__ __forceinline__ void add_up(int first, int count) {
    Digit* const total = step_abs_ + static_cast<std::int64_t>(first + lane()) * kDigits;
    __syncwarp();
    if (lane() < count) add_row(rows_ + lane() * kStepRow, total);
    __syncwarp();
  }

  static __device__ __forceinline__ void add_row(const float* row, Digit* total) {
    unsigned least = 0xFFFFFFFFU, most = 0;  // floats without a sign order like their bits
#pragma unroll 4                             // more would keep the row in registers that others need
    for (int i = 0; i < 32; ++i) {
      least = min(least, __float_as_uint(row[i]));
      most = max(most, __float_as_uint(row[i]));
    }
    constexpr unsigned kSmallestNormal = 0x00800000U, kInfinity = 0x7F800000U;
    const unsigned base = least >> 23;
    constexpr unsigned kSpan = 64 - 24 - 5;  // of exponents, so that 32 values of 24 bits fit 64 bits
    if (least >= kSmallestNormal && most < kInfinity && (most >> 23) - base <= kSpan) {
      Digit sum = 0;
#pragma unroll 4
      for (int i = 0; i < 32; ++i) {
        const unsigned bits = __float_as_uint(row[i]);
        sum += static_cast<Digit>((bits & 0x7FFFFFU) | 0x800000U) << ((bits >> 23) - base);
      }
      const int at = static_cast<int>((base - 1) >> 5);
      const unsigned shift = (base - 1) & 31U;
      PartialSum{at, (sum & 0xFFFFFFFFU) << shift}.add_to(total);
      PartialSum{at + 1, (sum >> 32) << shift}.add_to(total);
    } else {
      PartialSum sum;
#pragma unroll 1
      for (int i = 0; i < 32; ++i) sum.add(PartialSum::of(row[i]), total);
      sum.add_to(total);
    }
  }

  float* rows_;
  Digit* step_abs_;
};

/// Error sums of the steps where all lanes of a warp have the same group: lane l keeps those of steps l, l + 32, ...
/// of one group after another.
class GroupStepSums {
 public:
  __device__ __forceinline__ explicit GroupStepSums(Digit* step_abs) : step_abs_(step_abs) {}

  /// The group's error before step t.
  __device__ __forceinline__ void put(int t, float value) {
    if (((static_cast<unsigned>(t) ^ threadIdx.x) & 31U) != 0) return;
    if (step_ != t) {
      flush();
      step_ = t;
    }
    sum_.add(PartialSum::of(value), step_abs_ + static_cast<std::int64_t>(step_) * kDigits);
  }
  __device__ __forceinline__ void flush() {
    sum_.add_to(step_abs_ + static_cast<std::int64_t>(step_) * kDigits);
    sum_ = PartialSum{};
  }

 private:
  Digit* step_abs_;
  PartialSum sum_;
  int step_ = 0;
};

/// What the whole warp leaves in the sums of its tile. Lanes without a group give zeros.
struct GroupErrors {
  float abs = 0, square = 0, weight2 = 0, largest = 0;
};

__device__ __forceinline__ void add_errors(const GroupErrors& errors, TileSums& sums) {
  add_lanes(errors.abs, sums.abs);
  add_lanes(errors.square, sums.square);
  add_lanes(errors.weight2, sums.weight2);
  const float largest = is_finite(errors.abs) ? errors.largest : kLargestFloat;
  const unsigned most = __reduce_max_sync(kFullWarp, __float_as_uint(largest));
  if ((threadIdx.x & 31U) == 0) atomicMax(&sums.max_abs, most);
}

/// The same where columns are weighed: what a group adds to the sums of h e^2 and h w^2.
struct WeightedErrors {
  float square = 0, weight2 = 0;
};

__device__ __forceinline__ void add_errors(const WeightedErrors& errors, TileSums& sums) {
  add_lanes(errors.square, sums.weighted_square);
  add_lanes(errors.weight2, sums.weighted_weight2);
}

}  // namespace halfquad::cuda
