// Sums over the elements of N groups as the search of als_search.h takes them.
#if defined(HALFQUAD_KERNELS_SIMD_ALS_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HALFQUAD_KERNELS_SIMD_ALS_SUMS_INL_H_
#undef HALFQUAD_KERNELS_SIMD_ALS_SUMS_INL_H_
#else
#define HALFQUAD_KERNELS_SIMD_ALS_SUMS_INL_H_
#endif

#include <limits>

#include "kernels/simd/lanes-inl.h"

#if HWY_TARGET != HWY_SCALAR  // one lane at a time is the reference solver
HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {

enum class Columns { kAlike, kWeighted };
enum class Products { kExact, kRounded };

// Up to three running sums. Members, not an array: compilers keep an array in memory.
struct RunningSums {
  VF x, y, z;
};

HWY_INLINE RunningSums Joined(const RunningSums& a, const RunningSums& b) {
  return {hn::Add(a.x, b.x), hn::Add(a.y, b.y), hn::Add(a.z, b.z)};
}

// Element k goes to running sum k mod 4. `visit.Add(k, sums)` adds the terms of element k.
template <class Visit>
HWY_INLINE RunningSums SumOfFour(size_t elems, const Visit& visit) {
  const VF zero = hn::Zero(kDF);
  RunningSums a{zero, zero, zero}, b = a, c = a, d = a;
  size_t k = 0;
  for (; k + 4 <= elems; k += 4) {
    visit.Add(k, a);
    visit.Add(k + 1, b);
    visit.Add(k + 2, c);
    visit.Add(k + 3, d);
  }
  if (HWY_UNLIKELY(k < elems)) {
    visit.Add(k, a);
    if (k + 1 < elems) visit.Add(k + 1, b);
    if (k + 2 < elems) visit.Add(k + 2, c);
  }
  return Joined(Joined(a, c), Joined(b, d));
}

// `x` with its last `bits` bits rounded away, halves away from zero.
HWY_INLINE VF CutBits(VF x, int bits) {
  if (bits == 0) return x;
  const DU32 du;
  const auto half = hn::Set(du, 1U << (bits - 1));
  return hn::BitCast(kDF, hn::And(hn::Add(hn::BitCast(du, x), half), hn::Set(du, ~0U << bits)));
}

// h and h·w.
template <Columns kColumns>
struct MeanVisit {
  const float* HWY_RESTRICT w;
  const float* HWY_RESTRICT h;

  HWY_INLINE void Add(size_t k, RunningSums& sums) const {
    const VF weight = hn::Load(kDF, w + k * kLanes);
    const VF hk = kColumns == Columns::kWeighted ? hn::Load(kDF, h + k * kLanes) : hn::Set(kDF, 1.0F);
    sums.x = hn::Add(sums.x, hk);
    sums.y = hn::Add(sums.y, hn::Mul(hk, weight));
  }
};

// h and h·d, cut to the bits that a fit takes and kept for it.
template <Columns kColumns>
struct CutVisit {
  const float* HWY_RESTRICT w;
  const float* HWY_RESTRICT h;
  float* HWY_RESTRICT cut_h;
  float* HWY_RESTRICT cut_hd;
  VF mean, S;
  int bits_h, bits_hd;

  HWY_INLINE void Add(size_t k, RunningSums& sums) const {
    const VF d = hn::Mul(hn::Sub(hn::Load(kDF, w + k * kLanes), mean), S);
    VF hk = hn::Set(kDF, 1.0F), hd = d;
    if constexpr (kColumns == Columns::kWeighted) {
      hk = CutBits(hn::Load(kDF, h + k * kLanes), bits_h);
      hn::Store(hk, kDF, cut_h + k * kLanes);
      hd = hn::Mul(hk, d);
    }
    hd = CutBits(hd, bits_hd);
    hn::Store(hd, kDF, cut_hd + k * kLanes);
    sums.x = hn::Add(sums.x, hk);
    sums.y = hn::Add(sums.y, hd);
  }
};

// h·q, h·q² and h·d·q of a fit.
template <Columns kColumns, Products kProducts>
struct FitVisit {
  const float* HWY_RESTRICT w;
  const float* HWY_RESTRICT h;
  const float* HWY_RESTRICT hd;
  VF S, z, low, high;

  HWY_INLINE void Add(size_t k, RunningSums& sums) const {
    const VF t = hn::Add(hn::Mul(hn::Load(kDF, w + k * kLanes), S), z);
    const VF q = hn::Round(hn::Min(hn::Max(t, low), high));
    const VF hq = kColumns == Columns::kWeighted ? hn::Mul(hn::Load(kDF, h + k * kLanes), q) : q;
    sums.x = hn::Add(sums.x, hq);
    sums.y = AddProduct(hq, q, sums.y);
    sums.z = AddProduct(hn::Load(kDF, hd + k * kLanes), q, sums.z);
  }

 private:
  // Where the product is exact it makes no difference whether it is fused.
  static HWY_INLINE VF AddProduct(VF a, VF b, VF sum) {
    return kProducts == Products::kExact ? hn::MulAdd(a, b, sum) : hn::Add(sum, hn::Mul(a, b));
  }
};

// h·e², the error e being in codes.
template <Columns kColumns>
struct ScoreVisit {
  const float* HWY_RESTRICT w;
  const float* HWY_RESTRICT h;
  VF S, z, qmax;

  HWY_INLINE void Add(size_t k, RunningSums& sums) const {
    const VF t = hn::Add(hn::Mul(hn::Load(kDF, w + k * kLanes), S), z);
    const VF q = hn::Round(hn::Min(hn::Max(t, hn::Zero(kDF)), qmax));
    const VF e = hn::Sub(t, q);
    const VF he = kColumns == Columns::kWeighted ? hn::Mul(hn::Load(kDF, h + k * kLanes), e) : e;
    sums.x = hn::Add(sums.x, hn::Mul(he, e));
  }
};

// h·e², h·d·w and h·d² around a whole zero, d being codes counted from it and the error e in codes.
template <Columns kColumns>
struct WholeVisit {
  const float* HWY_RESTRICT w;
  const float* HWY_RESTRICT h;
  VF S, z, qmax;

  HWY_INLINE void Add(size_t k, RunningSums& sums) const {
    const VF weight = hn::Load(kDF, w + k * kLanes);
    const VF t = hn::Add(hn::Mul(weight, S), z);
    const VF q = hn::Round(hn::Min(hn::Max(t, hn::Zero(kDF)), qmax));
    const VF e = hn::Sub(t, q), d = hn::Sub(q, z);
    VF he = e, hd = d;
    if constexpr (kColumns == Columns::kWeighted) {
      const VF hk = hn::Load(kDF, h + k * kLanes);
      he = hn::Mul(hk, e);
      hd = hn::Mul(hk, d);
    }
    sums.x = hn::Add(sums.x, hn::Mul(he, e));
    sums.y = hn::Add(sums.y, hn::Mul(hd, weight));
    sums.z = hn::Add(sums.z, hn::Mul(hd, d));
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();
#endif

#endif
