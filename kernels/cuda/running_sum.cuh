#pragma once

#include "kernels/cuda/arithmetic.cuh"

// Sums over groups of any size in the canonical order. The terms of element k are given by visit(k, terms).

namespace halfquad::cuda {

/// Sums of `planned` additions in index order, closed into the next of four levels every 2^power of them.
template <int kSums>
class RunningSums {
 public:
  __device__ __forceinline__ explicit RunningSums(unsigned planned) {
    const unsigned bits = planned > 1 ? 32U - static_cast<unsigned>(__clz(static_cast<int>(planned - 1))) : 0U;
    power_ = bits / 4 > 4 ? bits / 4 : 4;
    whole_ = planned >> power_ << power_;
  }

  __device__ __forceinline__ void add_terms(const float (&terms)[kSums]) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) level_[0][i] = add(level_[0][i], terms[i]);
    ++added_;
    const unsigned mask = (1U << power_) - 1;
    if (added_ > whole_ || (added_ & mask) != 0) return;
    close(1);
    if ((added_ & (mask << power_)) != 0) return;
    close(2);
    if ((added_ & (mask << (2 * power_))) != 0) return;
    close(3);
  }

  __device__ __forceinline__ void join(float (&sums)[kSums]) const {
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums[i] = add(add(add(level_[0][i], level_[1][i]), level_[2][i]), level_[3][i]);
  }

 private:
  __device__ __forceinline__ void close(int j) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      level_[j][i] = add(level_[j][i], level_[j - 1][i]);
      level_[j - 1][i] = 0;
    }
  }

  float level_[4][kSums] = {};
  unsigned power_ = 4, whole_ = 0, added_ = 0;
};

/// A thread's own group of elements a row apart: one running sum.
struct ThreadWalk {
  unsigned elems;

  template <int kSums, class Visit>
  __device__ __forceinline__ void sum(const Visit& visit, float (&total)[kSums]) const {
    RunningSums<kSums> running(elems);
    float terms[kSums];
    for (unsigned k = 0; k < elems; ++k) {
      visit(k, terms);
      running.add_terms(terms);
    }
    running.join(total);
  }

  template <class Visit>
  __device__ __forceinline__ void each(const Visit& visit) const {
    for (unsigned k = 0; k < elems; ++k) visit(k);
  }
};

/// A warp's group of consecutive elements: lane l has running sum l, which is that of elements k with k mod 32 = l.
struct WarpWalk {
  unsigned elems;

  /// All lanes get the total.
  template <int kSums, class Visit>
  __device__ __forceinline__ void sum(const Visit& visit, float (&total)[kSums]) const {
    const unsigned lane = threadIdx.x & 31U;
    const unsigned rounds = elems / 32;
    RunningSums<kSums> running(rounds);
    float terms[kSums], mine[kSums];
    for (unsigned r = 0; r < rounds; ++r) {
      visit(r * 32 + lane, terms);
      running.add_terms(terms);
    }
    running.join(mine);
    for (unsigned k = rounds * 32; k + 8 <= elems; k += 8) {  // left over, eight at a time
      if (lane >= 8) continue;
      visit(k + lane, terms);
#pragma unroll
      for (int i = 0; i < kSums; ++i) mine[i] = add(mine[i], terms[i]);
    }
    const unsigned last = elems % 8;
    if (lane < last) visit(elems - last + lane, terms);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kSums; ++i) total[i] = join_lanes(mine[i], terms[i], last);
  }

  template <class Visit>
  __device__ __forceinline__ void each(const Visit& visit) const {
    for (unsigned k = threadIdx.x & 31U; k < elems; k += 32) visit(k);
  }

 private:
  static __device__ __forceinline__ float join_lanes(float mine, float term, unsigned last) {
    float total = 0;
    for (unsigned l = 0; l < last; ++l) total = add(total, __shfl_sync(kFullWarp, term, static_cast<int>(l)));
    const int lane = static_cast<int>(threadIdx.x & 7U);
    float joined = __shfl_sync(kFullWarp, mine, lane);
#pragma unroll
    for (int c = 8; c < 32; c += 8) joined = add(joined, __shfl_sync(kFullWarp, mine, lane + c));
#pragma unroll
    for (int l = 0; l < 8; ++l) total = add(total, __shfl_sync(kFullWarp, joined, l));
    return total;
  }
};

}  // namespace halfquad::cuda
