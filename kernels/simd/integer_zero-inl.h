// The search for scale and whole zero of N groups at a time.
#if defined(HALFQUAD_KERNELS_SIMD_INTEGER_ZERO_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HALFQUAD_KERNELS_SIMD_INTEGER_ZERO_INL_H_
#undef HALFQUAD_KERNELS_SIMD_INTEGER_ZERO_INL_H_
#else
#define HALFQUAD_KERNELS_SIMD_INTEGER_ZERO_INL_H_
#endif

#include "kernels/integer_zero.h"
#include "kernels/simd/sums-inl.h"

#if HWY_TARGET != HWY_SCALAR  // one lane at a time is the reference solver
HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {

// The range that the codes of N groups have to cover.
struct Span {
  VF length, middle;
};

HWY_INLINE Span SpanOf(VF lo, VF hi, ZeroKind zeros) {
  const VF zero = hn::Zero(kDF);
  lo = hn::Min(lo, zero);
  hi = hn::Max(hi, zero);
  if (zeros == ZeroKind::kSymmetric) return {hn::Mul(hn::Set(kDF, 2.0F), hn::Max(hn::Neg(lo), hi)), zero};
  return {hn::Sub(hi, lo), hn::Mul(hn::Set(kDF, 0.5F), hn::Add(lo, hi))};
}

// A scale and a zero of N groups, and the sums of squared errors with them.
struct Candidates {
  VF s, z, square_sum;
};

// What one element adds in one round, d = q - z being its whole steps: e², w·d and d².
struct FitTerms {
  const float* HWY_RESTRICT w;
  VF z, s, S, qmax;

  HWY_INLINE Sums<3> operator()(size_t k) const {
    const VF weight = hn::Load(kDF, w + k * kLanes);
    const VF q = hn::Min(hn::Max(hn::Round(hn::Add(hn::Mul(weight, S), z)), hn::Zero(kDF)), qmax);
    const VF d = SubOnMulPipe(q, z);
    const VF e = hn::Sub(weight, hn::Mul(d, s));
    Sums<3> out;
    out.x[0] = hn::Mul(e, e);
    out.x[1] = hn::Mul(weight, d);
    out.x[2] = hn::Mul(d, d);
    return out;
  }
};

// The rounds from one start, in the groups of `live`; keeps the best pair ever met in `best`.
HWY_INLINE void RefineScale(const float* w, Order order, size_t elems, VF qmax, int rounds, MF live, Candidates now,
                            Candidates& best) {
  const VF one = hn::Set(kDF, 1.0F);
  for (int round = 0; round < rounds && !hn::AllFalse(kDF, live); ++round) {
    const Sums<3> sums = SumGroup(order, elems, FitTerms{w, now.z, now.s, hn::Div(one, now.s), qmax});
    const MF better = hn::And(live, hn::Lt(sums.x[0], best.square_sum));
    best.square_sum = hn::IfThenElse(better, sums.x[0], best.square_sum);
    best.s = hn::IfThenElse(better, now.s, best.s);
    best.z = hn::IfThenElse(better, now.z, best.z);
    const VF fitted = hn::Div(sums.x[1], sums.x[2]);
    live = hn::And(live, hn::And(hn::Gt(sums.x[2], hn::Zero(kDF)), hn::Gt(sums.x[1], hn::Zero(kDF))));
    live = hn::And(live, hn::Ne(fitted, now.s));
    now.s = hn::IfThenElse(live, fitted, now.s);
  }
}

// The best scale and zero of N groups whose weights lie at `w`, a vector an element.
HWY_INLINE Candidates SearchIntegerZero(const float* w, Order order, size_t elems, const Span& span,
                                        const QuantSpec& spec) {
  const VF zero = hn::Zero(kDF);
  const VF qmax_v = hn::Set(kDF, static_cast<float>(qmax(spec.width)));
  const bool symmetric = spec.zeros == ZeroKind::kSymmetric;
  const VF fixed = hn::Set(kDF, symmetric ? IntegerZeroSearch::symmetric_zero(spec.width) : 0.0F);
  const VF half = hn::Mul(hn::Set(kDF, 0.5F), span.length);
  const MF wide = hn::Gt(span.length, hn::Set(kDF, IntegerZeroSearch::kNarrowest));
  const int rounds = IntegerZeroSearch::rounds(spec);

  Candidates best{hn::Set(kDF, 1.0F), fixed, hn::Set(kDF, std::numeric_limits<float>::infinity())};
  for (const float part : IntegerZeroSearch::kParts) {
    const VF part_v = hn::Set(kDF, part);
    const VF s = hn::Div(hn::Mul(span.length, part_v), qmax_v);
    const VF rounded = hn::Round(hn::Div(hn::Sub(hn::Mul(half, part_v), span.middle), s));
    if (part == IntegerZeroSearch::kParts[0]) {
      best.s = hn::IfThenElse(wide, s, best.s);
      if (!symmetric) best.z = hn::IfThenElse(wide, hn::Min(hn::Max(rounded, zero), qmax_v), best.z);
    }
    if (symmetric) {
      RefineScale(w, order, elems, qmax_v, rounds, wide, {s, fixed, zero}, best);
      continue;
    }
    for (float offset = -1; offset <= 1; ++offset) {
      const VF z = hn::Add(rounded, hn::Set(kDF, offset));
      const MF live = hn::And(wide, hn::And(hn::Ge(z, zero), hn::Le(z, qmax_v)));
      RefineScale(w, order, elems, qmax_v, rounds, live, {s, z, zero}, best);
    }
  }
  return best;
}

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();
#endif

#endif
