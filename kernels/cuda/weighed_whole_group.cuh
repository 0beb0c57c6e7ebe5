#pragma once

#include "kernels/cuda/whole_group.cuh"

// The search of kernels/als_search.h for whole zeros where columns are weighed, by quads.

namespace halfquad::cuda {

inline constexpr int kKeptWhole = 5;  // as AlsSearch has it

/// Looks at S and zero of `at`. s1: the scale of the whole range.
template <class Elements>
__device__ __forceinline__ void look_weighed(const Elements& elements, float largest_code, float s1, Candidate& at) {
  float sums[3];
  sum_by_quad(
      elements,
      [&](auto i, float(&terms)[3]) {
        const float w = elements.w(i), h = elements.h(i);
        const float t = add(mul(w, at.S), at.zero);
        const float q = clamped_code(t, 0.0F, largest_code);
        const float e = sub(t, q), d = sub(q, at.zero), hd = mul(h, d);
        terms[0] = mul(mul(h, e), e);
        terms[1] = mul(hd, w);
        terms[2] = mul(hd, d);
      },
      sums);
  const float ratio = mul(at.S, s1);
  at.error = div(sums[0], mul(ratio, ratio));
  at.fit = sums[1] > 0 ? div(sums[2], sums[1]) : 0.0F;
}

/// A round. Whether it changed anything.
template <class Elements>
__device__ __forceinline__ bool refine_weighed(const Elements& elements, float largest_code, float s1, Candidate& now) {
  const bool live = now.fit > 0 && now.error < __builtin_huge_valf();
  if (__any_sync(kFullWarp, live) == 0) return false;
  Candidate next = now;
  if (live) next.S = now.fit;
  look_weighed(elements, largest_code, s1, next);
  const bool better = live && next.error < now.error;
  if (better) now = next;
  return better;
}

/// As search_whole().
template <class Elements>
__device__ __forceinline__ Grid search_weighed_whole(const Elements& elements, const Range& range,
                                                     const SolveLaunch& launch) {
  const WholeValues& search = launch.whole;
  const WholeSpan span(range, launch);
  const float s1 = div(span.length, launch.largest_code);
  CandidateSet kept(search.fixed_zero);
  const int asides = search.symmetric ? 1 : 3;
#pragma unroll 1
  for (int i = 0; i < launch.start_count * asides; ++i) {
    const float covered = mul(span.length, __ldg(launch.starts + i / asides));
    const float scale = div(covered, launch.largest_code);
    const float own = search.symmetric ? search.fixed_zero : span.zero_of(covered, scale);
    const int aside = i % asides;  // 0, then 1 below, then 1 above
    Candidate tried;
    tried.S = div(1.0F, scale);
    tried.zero = add(own, aside == 0 ? 0.0F : aside == 1 ? -1.0F : 1.0F);
    tried.order = static_cast<unsigned>(i);
    const bool valid = tried.zero >= 0 && tried.zero <= launch.largest_code;
    if (__any_sync(kFullWarp, valid) == 0) continue;
    look_weighed(elements, launch.largest_code, s1, tried);
    if (!valid) tried.error = __builtin_huge_valf();
    static_cast<void>(refine_weighed(elements, launch.largest_code, s1, tried));
    kept.insert(tried, kKeptWhole);
  }
  kept.sort(kKeptWhole);
  bool active = true;
#pragma unroll 1
  for (int round = 1; round < launch.rounds && active; ++round) {
    active = false;
#pragma unroll 1
    for (int i = 0; i < kKeptWhole; ++i) {
      Candidate now = kept.get(i);
      const bool better = refine_weighed(elements, launch.largest_code, s1, now);
      if (better) kept.put(i, now);
      active = __any_sync(kFullWarp, better) != 0 || active;
    }
  }
  const Candidate found = kept.best(kKeptWhole);
  const bool exists = span.wide && found.error < __builtin_huge_valf();
  Grid best;
  best.S = exists ? found.S : 1.0F;
  best.s = div(1.0F, best.S);
  best.z = exists ? found.zero : search.fixed_zero;
  return best;
}

}  // namespace halfquad::cuda
