#pragma once

#include "kernels/cuda/quad.cuh"

namespace halfquad::cuda {

/// A grid that a search looked at.
struct Candidate {
  float error = __builtin_huge_valf();  ///< What it leaves; infinite: there is none.
  float fit = 0;                        ///< The scale that fits its codes, as the search has it.
  float S = 1, zero = 0;
  unsigned order = 0;  ///< Decides between equal errors: the smaller is the better. No two of a set are equal.
};

/// What sorts them.
struct CandidateRank {
  float error;
  unsigned order;

  __device__ __forceinline__ CandidateRank(float error, unsigned order) : error(error), order(order) {}
  __device__ __forceinline__ explicit CandidateRank(const Candidate& of) : error(of.error), order(of.order) {}
  [[nodiscard]] __device__ __forceinline__ bool before(const CandidateRank& other) const {
    return error < other.error || (error == other.error && order < other.order);
  }
};

/// The best candidates of a quad's group: number i is held by lane i mod 4. All lanes of the warp call the same
/// functions with the same numbers and get what their own quad has.
class CandidateSet {
 public:
  static_assert(kMostCandidates == 2 * kQuad);

  /// None, with this zero.
  __device__ __forceinline__ explicit CandidateSet(float zero) {
    for (int j = 0; j < 2; ++j) {
      own_[j].zero = zero;
      own_[j].order = ~0U - static_cast<unsigned>(quad_lane() + kQuad * j);
    }
  }

  [[nodiscard]] __device__ __forceinline__ Candidate get(int i) const {
    const Candidate from = i < kQuad ? own_[0] : own_[1];
    const int lane = i % kQuad;
    Candidate found;
    found.error = __shfl_sync(kFullWarp, from.error, lane, kQuad);
    found.fit = __shfl_sync(kFullWarp, from.fit, lane, kQuad);
    found.S = __shfl_sync(kFullWarp, from.S, lane, kQuad);
    found.zero = __shfl_sync(kFullWarp, from.zero, lane, kQuad);
    found.order = __shfl_sync(kFullWarp, from.order, lane, kQuad);
    return found;
  }

  /// This number may be another one in each quad.
  __device__ __forceinline__ void put(int i, const Candidate& candidate) {
    if (quad_lane() == i) own_[0] = candidate;
    if (quad_lane() + kQuad == i) own_[1] = candidate;
  }

  /// In the place of the worst of the first `count`, unless that is better.
  __device__ __forceinline__ void insert(const Candidate& candidate, int count) {
    const Found worst = find<Which::kWorst>(count);
    put(CandidateRank(candidate).before(worst.rank) ? worst.index : kMostCandidates, candidate);
  }

  /// Sorts the first `count`; from now on their places decide between equal errors.
  __device__ __forceinline__ void sort(int count) {
    unsigned rank[2] = {};
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      const CandidateRank other(get(i));
      for (int j = 0; j < 2; ++j) rank[j] += other.before(CandidateRank(own_[j])) ? 1U : 0U;
    }
    for (int j = 0; j < 2; ++j) {
      if (quad_lane() + kQuad * j < count) own_[j].order = rank[j];
    }
    const CandidateSet unsorted = *this;
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      const Candidate next = unsorted.get(i);
      put(static_cast<int>(next.order), next);
    }
  }

  /// Drops one of the first `count`, the worst, of equal ones the last, by one pass of a bubble sort. One that is none
  /// is dropped without such a pass. @pre sorted; those that are none come last.
  __device__ __forceinline__ void drop_worst(int count) {
    const bool full = get(count - 1).error < __builtin_huge_valf();
    Candidate worst = get(0);
#pragma unroll 1
    for (int i = 1; i < count; ++i) {
      Candidate next = get(i);
      const bool swap = full && next.error < worst.error;
      Candidate first = swap ? next : worst;
      if (!swap) worst = next;
      first.order = static_cast<unsigned>(i - 1);
      put(i - 1, first);
    }
  }

  [[nodiscard]] __device__ __forceinline__ Candidate best(int count) const {
    const int index = find<Which::kBest>(count).index;
    Candidate best = get(0);
#pragma unroll 1
    for (int i = 1; i < count; ++i) {
      const Candidate other = get(i);
      if (i == index) best = other;
    }
    return best;
  }

 private:
  enum class Which { kBest, kWorst };
  struct Found {
    CandidateRank rank;
    int index;
  };

  template <Which kWhich>
  [[nodiscard]] static __device__ __forceinline__ bool beats(const Found& a, const Found& b) {
    return kWhich == Which::kBest ? a.rank.before(b.rank) : b.rank.before(a.rank);
  }

  template <Which kWhich>
  [[nodiscard]] __device__ __forceinline__ Found find(int count) const {
    const int lane = quad_lane();
    Found found{CandidateRank(own_[0]), lane};
    if (lane >= count)
      found.rank = kWhich == Which::kBest ? CandidateRank(__builtin_huge_valf(), ~0U) : CandidateRank(-1, 0);
    const Found second{CandidateRank(own_[1]), lane + kQuad};
    if (lane + kQuad < count && beats<kWhich>(second, found)) found = second;
#pragma unroll
    for (int distance = 1; distance < kQuad; distance *= 2) {
      const Found other{{__shfl_xor_sync(kFullWarp, found.rank.error, distance),
                         __shfl_xor_sync(kFullWarp, found.rank.order, distance)},
                        __shfl_xor_sync(kFullWarp, found.index, distance)};
      if (beats<kWhich>(other, found)) found = other;
    }
    return found;
  }

  Candidate own_[2];
};

}  // namespace halfquad::cuda
