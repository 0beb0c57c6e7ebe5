// The canonical power function and the shrinkage of the hqq solver, N lanes at a time (kernels/power.cpp defines both).
#if defined(HALFQUAD_KERNELS_SIMD_POWER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HALFQUAD_KERNELS_SIMD_POWER_INL_H_
#undef HALFQUAD_KERNELS_SIMD_POWER_INL_H_
#else
#define HALFQUAD_KERNELS_SIMD_POWER_INL_H_
#endif

#include "kernels/power.h"
#include "kernels/simd/lanes-inl.h"

#if HWY_TARGET != HWY_SCALAR  // one lane at a time is the reference solver
HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {

// a^c, every line one rounded fp32 operation; `a` positive and normal in the lanes that count.
HWY_INLINE VF Power(VF a, const PowerExponent& exponent) {
  const DI di;
  const auto i = hn::BitCast(di, a);
  const auto k = hn::ShiftRight<23>(hn::Sub(i, hn::Set(di, 0x3F3504F3)));
  const VF g = hn::Sub(hn::BitCast(kDF, hn::Sub(i, hn::ShiftLeft<23>(k))), hn::Set(kDF, 1.0F));
  VF r = hn::Set(kDF, kLog2Poly[8]);
  for (int j = 7; j >= 0; --j) r = hn::Add(hn::Mul(r, g), hn::Set(kDF, kLog2Poly[j]));
  const VF l = hn::Mul(g, r);
  const VF kf = hn::ConvertTo(kDF, k);
  const VF t = hn::Mul(hn::Set(kDF, exponent.chi), kf);
  const VF u = hn::Add(hn::Mul(hn::Set(kDF, exponent.c), l), hn::Mul(hn::Set(kDF, exponent.clo), kf));
  const VF magic = hn::Set(kDF, 12582912.0F);
  const VF n = hn::Sub(hn::Add(hn::Add(t, u), magic), magic);
  const VF f = hn::Add(hn::Sub(t, n), u);
  VF e = hn::Set(kDF, kExp2Poly[6]);
  for (int j = 5; j >= 0; --j) e = hn::Add(hn::Mul(e, f), hn::Set(kDF, kExp2Poly[j]));
  return hn::BitCast(kDF, hn::Add(hn::BitCast(di, e), hn::ShiftLeft<23>(hn::ConvertTo(di, n))));
}

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();
#endif

#endif
