// The hqq and rtn solvers for N groups at a time.
#if defined(HALFQUAD_KERNELS_SIMD_SOLVE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HALFQUAD_KERNELS_SIMD_SOLVE_INL_H_
#undef HALFQUAD_KERNELS_SIMD_SOLVE_INL_H_
#else
#define HALFQUAD_KERNELS_SIMD_SOLVE_INL_H_
#endif

#include "kernels/simd/codes-inl.h"
#include "kernels/simd/power-inl.h"
#include "kernels/simd/sums-inl.h"

#if HWY_TARGET != HWY_SCALAR  // one lane at a time is the reference solver
HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {

// Grid of N groups and the range it came from.
struct Grid {
  VF lo_S, hi_S;  // smallest and largest w·S
  VF magnitude;   // largest |w|
  VF S, s, z;
};

// Scale and zero of N groups as the file will hold them.
struct StoredGrid {
  VF s, z;
};

struct Shrinkage {
  PowerExponent exponent;
  bool constant_power = false;  // p = 1: |e|^0
};

// Smallest and largest weight of each lane, by comparing floats. -0 counts as less than +0, as in the reference.
HWY_NOINLINE void CompareAll(const float* HWY_RESTRICT w, size_t elems, VF& lo, VF& hi) {
  VF smallest = hn::Load(kDF, w), largest = smallest, signs = smallest;
  for (size_t k = 1; k < elems; ++k) {
    const VF x = hn::Load(kDF, w + k * kLanes);
    smallest = hn::Min(smallest, x);
    largest = hn::Max(largest, x);
    signs = hn::Or(signs, x);
  }
  const VF signed_zero = hn::And(signs, hn::Set(kDF, -0.0F));
  lo = hn::IfThenElse(hn::Eq(smallest, hn::Zero(kDF)), signed_zero, smallest);
  hi = largest;
}

// Smallest and largest weight of each lane, -0 less than +0. Returns whether a lane's range is beyond fp32, which an
// infinity makes it; a NaN may go unnoticed.
// Among the bits of floats of both signs the largest signed integer is the largest float, and the largest unsigned one
// the smallest float. Integers can be compared on every pipe, floats on half of them.
HWY_INLINE bool RangeOf(const LargestBits& largest, const float* HWY_RESTRICT w, size_t elems, VF& lo, VF& hi) {
  const DI di;
  const auto both_signs = hn::AndNot(largest.as_signed, hn::BitCast(di, largest.as_unsigned));
  if (HWY_LIKELY(hn::AllTrue(di, hn::Lt(both_signs, hn::Zero(di))))) {
    lo = hn::BitCast(kDF, largest.as_unsigned);
    hi = hn::BitCast(kDF, largest.as_signed);
  } else {
    CompareAll(w, elems, lo, hi);
  }
  return !hn::AllTrue(kDF, hn::Le(hn::Sub(hi, lo), hn::Set(kDF, std::numeric_limits<float>::max())));
}

// Whether one of the weights is NaN or infinite.
HWY_INLINE bool HasNonfinite(const float* HWY_RESTRICT w, size_t elems) {
  auto finite = hn::FirstN(kDF, kLanes);
  const VF most = hn::Set(kDF, std::numeric_limits<float>::max());
  for (size_t k = 0; k < elems; ++k) finite = hn::And(finite, hn::Le(hn::Abs(hn::Load(kDF, w + k * kLanes)), most));
  return !hn::AllTrue(kDF, finite);
}

HWY_INLINE Grid StartGrid(VF lo, VF hi, VF qmax, bool round_zero) {
  Grid grid;
  const VF one = hn::Set(kDF, 1.0F);
  const VF range = hn::Sub(hi, lo);
  const VF S =
      hn::Mul(hn::Div(one, range), qmax);  // a reciprocal, then a product, as the published library computes it
  grid.S = hn::Min(hn::IfThenElse(hn::Le(hn::Abs(range), hn::Set(kDF, 1e-4F)), one, S), hn::Set(kDF, 2e4F));
  grid.s = hn::Div(one, grid.S);
  grid.lo_S = hn::Mul(lo, grid.S);
  grid.hi_S = hn::Mul(hi, grid.S);
  grid.magnitude = hn::Max(hn::Abs(lo), hn::Abs(hi));
  grid.z = hn::Mul(hn::Neg(lo), grid.S);
  if (round_zero) grid.z = hn::Round(grid.z);
  return grid;
}

HWY_INLINE void ScaleWeights(const float* HWY_RESTRICT w, VF S, size_t elems, float* HWY_RESTRICT ws) {
  for (size_t k = 0; k < elems; ++k) hn::Store(hn::Mul(hn::Load(kDF, w + k * kLanes), S), kDF, ws + k * kLanes);
}

enum class Clamp { kNo, kYes };
enum class Errors { kNo, kYes };

// What one element adds in one step while the shrinkage is zero: x[0] = q - w·S, and x[1] = |e| when errors are wanted.
template <Clamp kClamp, Errors kErrors>
struct PlainStep {
  static constexpr int kSums = kErrors == Errors::kYes ? 2 : 1;
  const float* HWY_RESTRICT w;
  const float* HWY_RESTRICT ws;
  const float* HWY_RESTRICT codes_from;  // ws, or what gives the codes without clamping
  VF z, s, qmax;

  HWY_INLINE Sums<kSums> operator()(size_t k) const {
    const VF wS = hn::Load(kDF, ws + k * kLanes);
    const VF from = hn::Load(kDF, codes_from + k * kLanes);
    VF q = hn::Round(kErrors == Errors::kYes ? hn::Add(from, z) : AddOnMulPipe(from, z));
    if constexpr (kClamp == Clamp::kYes) q = hn::Min(hn::Max(q, hn::Zero(kDF)), qmax);
    Sums<kSums> out;
    out.x[0] = SubOnMulPipe(q, wS);
    if constexpr (kErrors == Errors::kYes) {
      // Clamping adds to the load of the addition pipes; this subtraction makes up for it.
      const VF weight = hn::Load(kDF, w + k * kLanes);
      const VF restored = hn::Mul(SubOnMulPipe(q, z), s);
      out.x[1] = hn::Abs(kClamp == Clamp::kYes ? SubOnMulPipe(weight, restored) : hn::Sub(weight, restored));
    }
    return out;
  }
};

// The same where |e| may exceed the threshold: x[0] = q - (w - x)·S for those elements.
struct ShrinkStep {
  const float* HWY_RESTRICT w;
  const float* HWY_RESTRICT ws;
  VF z, s, S, qmax, threshold, inv_beta;
  Shrinkage shrinkage;

  HWY_INLINE Sums<2> operator()(size_t k) const {
    const VF weight = hn::Load(kDF, w + k * kLanes);
    const VF wS = hn::Load(kDF, ws + k * kLanes);
    const VF q = hn::Min(hn::Max(hn::Round(hn::Add(wS, z)), hn::Zero(kDF)), qmax);
    const VF e = hn::Sub(weight, hn::Mul(hn::Sub(q, z), s));
    const VF a = hn::Abs(e);
    VF t = hn::Sub(q, wS);
    const MF active = hn::Gt(a, threshold);
    if (!hn::AllFalse(kDF, active)) {
      const VF power = shrinkage.constant_power ? hn::Set(kDF, 1.0F) : Power(a, shrinkage.exponent);
      const VF magnitude = hn::Max(hn::Sub(a, hn::Mul(inv_beta, power)), hn::Zero(kDF));
      const VF x = hn::IfThenElse(hn::Lt(e, hn::Zero(kDF)), hn::Neg(magnitude), magnitude);
      t = hn::IfThenElse(active, hn::Sub(q, hn::Mul(hn::Sub(weight, x), S)), t);
    }
    Sums<2> out;
    out.x[0] = t;
    out.x[1] = a;
    return out;
  }
};

// What N lanes can be told about steps whose z lies within [low, high] from their smallest and largest weight alone:
// w·S + z is monotonic in w and in z, its roundings too, so the borders decide.
struct StepBounds {
  bool clamp;      // some code may fall outside 0..qmax before clamping
  VF error_bound;  // no |e| of the lane is larger, roundings included
};

HWY_INLINE StepBounds BoundSteps(const Grid& grid, VF low, VF high, VF qmax) {
  const VF zero = hn::Zero(kDF);
  const VF below = hn::Add(grid.lo_S, low);
  const VF above = hn::Add(grid.hi_S, high);
  StepBounds bounds;
  bounds.clamp = !hn::AllTrue(kDF, hn::And(hn::Ge(hn::Round(below), zero), hn::Le(hn::Round(above), qmax)));
  const VF outside = hn::Max(hn::Neg(below), hn::Sub(above, qmax));
  const VF steps = hn::Max(outside, hn::Set(kDF, 0.5F));
  const VF largest_z = hn::Max(hn::Abs(low), hn::Abs(high));
  const VF largest = hn::Add(grid.magnitude, hn::Mul(hn::Add(qmax, largest_z), grid.s));
  bounds.error_bound =
      hn::Add(hn::Mul(hn::Mul(steps, grid.s), hn::Set(kDF, 1.0001F)), hn::Mul(largest, hn::Set(kDF, 0x1p-20F)));
  return bounds;
}

HWY_INLINE StepBounds BoundStep(const Grid& grid, VF qmax) { return BoundSteps(grid, grid.z, grid.z, qmax); }

// N groups being solved.
struct LaneSet {
  simd::WeightLanes weights;
  size_t first, count;  // groups of the block; lanes beyond `count` repeat the first
  Grid grid;
  size_t settled;                // steps after which z was final; the number of steps until that is noticed
  VF clamped_low, clamped_high;  // what weights.clamped was clamped to
  bool has_clamped;
  // What a look at the last z found to hold for every z within [calm_low, calm_high], which are empty if nothing did:
  // the rounded codes_from + z are the codes, and the shrinkage is zero up to the last step.
  VF calm_low, calm_high;
  float* codes_from;
};

// Whether clamping w·S to low..high and adding z gives, rounded, the same codes as clamping afterwards. The borders
// decide, since both roundings are monotonic: what lies beyond a border has the border's code, what lies between them
// needs no clamping.
HWY_INLINE bool ClampsAlike(VF low, VF high, VF z, VF qmax) {
  return hn::AllTrue(
      kDF, hn::And(hn::Eq(hn::Round(hn::Add(low, z)), hn::Zero(kDF)), hn::Eq(hn::Round(hn::Add(high, z)), qmax)));
}

// Where the codes of a step that needs clamping can be had without: two operations less for every element. z moves
// little from step to step, so weights clamped once serve most of them. Null when z is too large for that.
HWY_INLINE float* ClampedWeights(LaneSet& set, size_t elems, VF qmax) {
  const VF z = set.grid.z;
  if (set.has_clamped && ClampsAlike(set.clamped_low, set.clamped_high, z, qmax)) return set.weights.clamped;
  set.clamped_low = hn::Neg(z);
  set.clamped_high = hn::Sub(qmax, z);
  set.has_clamped = ClampsAlike(set.clamped_low, set.clamped_high, z, qmax);
  if (!set.has_clamped) return nullptr;
  for (size_t k = 0; k < elems; ++k) {
    const VF wS = hn::Load(kDF, set.weights.ws + k * kLanes);
    hn::Store(hn::Min(hn::Max(wS, set.clamped_low), set.clamped_high), kDF, set.weights.clamped + k * kLanes);
  }
  return set.weights.clamped;
}

HWY_INLINE bool SameBits(VF a, VF b) {
  const DI di;
  return hn::AllTrue(di, hn::Eq(hn::BitCast(di, a), hn::BitCast(di, b)));
}

// How a step has to be computed.
enum class StepKind { kPlain, kClamp, kShrink };

// Sums of one step of N groups: of q - (w - x)·S, and of |e| when wanted.
template <Errors kErrors>
HWY_INLINE Sums<2> RunStep(Order order, size_t elems, const LaneSet& set, StepKind kind, VF qmax,
                           const StepConstants& step, const Shrinkage& shrinkage) {
  const simd::WeightLanes& weights = set.weights;
  const Grid& grid = set.grid;
  const Order general = order == Order::kStrided ? order : Order::kConsecutive;
  if (HWY_UNLIKELY(kind == StepKind::kShrink)) {
    const ShrinkStep visit{weights.w,
                           weights.ws,
                           grid.z,
                           grid.s,
                           grid.S,
                           qmax,
                           hn::Set(kDF, step.inert_threshold),
                           hn::Set(kDF, step.inv_beta),
                           shrinkage};
    return SumGroup(general, elems, visit);
  }
  constexpr int kSums = PlainStep<Clamp::kNo, kErrors>::kSums;
  Sums<kSums> sums;
  if (HWY_UNLIKELY(kind == StepKind::kClamp)) {
    const PlainStep<Clamp::kYes, kErrors> visit{weights.w, weights.ws, weights.ws, grid.z, grid.s, qmax};
    sums = SumGroup(general, elems, visit);
  } else {
    const PlainStep<Clamp::kNo, kErrors> visit{weights.w, weights.ws, set.codes_from, grid.z, grid.s, qmax};
    sums = SumGroup(order, elems, visit);
  }
  Sums<2> total;
  total.x[0] = sums.x[0];
  total.x[1] = kErrors == Errors::kYes ? sums.x[kSums - 1] : hn::Zero(kDF);
  return total;
}

// Everything the steps of one request share.
struct StepPlan {
  const StepConstants* steps = nullptr;  // iters of them
  size_t iters = 0;
  Shrinkage shrinkage;
  bool exit_at_fixed_point = true;
};

// Notes for which z around the present one the steps stay as they are: as long as no code moves by half a step, that
// is most of the time.
HWY_INLINE void FindCalm(LaneSet& set, bool clamped, VF qmax, VF last_threshold) {
  const VF almost_half = hn::Set(kDF, 0.499F);
  const Grid& grid = set.grid;
  const VF low = hn::Sub(hn::Neg(clamped ? set.clamped_low : grid.lo_S), almost_half);
  const VF high = hn::Add(clamped ? hn::Neg(set.clamped_low) : hn::Sub(qmax, grid.hi_S), almost_half);
  const StepBounds bounds = BoundSteps(grid, low, high, qmax);
  const bool same_codes = clamped ? ClampsAlike(set.clamped_low, set.clamped_high, low, qmax) &&
                                        ClampsAlike(set.clamped_low, set.clamped_high, high, qmax)
                                  : !bounds.clamp;
  if (!same_codes || !hn::AllTrue(kDF, hn::Le(bounds.error_bound, last_threshold))) return;
  set.calm_low = low;
  set.calm_high = high;
}

HWY_INLINE bool IsCalm(const LaneSet& set) {
  return hn::AllTrue(kDF, hn::And(hn::Ge(set.grid.z, set.calm_low), hn::Le(set.grid.z, set.calm_high)));
}

// Decides how to compute a step from its z. Returns whether the shrinkage is zero up to the last step should z repeat.
HWY_INLINE bool LookAtStep(LaneSet& set, size_t elems, VF qmax, VF threshold, VF last_threshold, StepKind& kind) {
  const StepBounds bounds = BoundStep(set.grid, qmax);
  set.calm_low = hn::Set(kDF, 1.0F);
  set.calm_high = hn::Zero(kDF);
  if (HWY_UNLIKELY(!hn::AllTrue(kDF, hn::Le(bounds.error_bound, threshold)))) {
    kind = StepKind::kShrink;
  } else {
    set.codes_from = bounds.clamp ? ClampedWeights(set, elems, qmax) : set.weights.ws;
    kind = set.codes_from == nullptr ? StepKind::kClamp : StepKind::kPlain;
    if (kind == StepKind::kPlain) FindCalm(set, bounds.clamp, qmax, last_threshold);
  }
  return hn::AllTrue(kDF, hn::Le(bounds.error_bound, last_threshold));
}

// Sum of N groups over their size. Where both are exact, the product is faster.
HWY_INLINE VF MeanOf(VF sum, size_t elems) {
  const float size = static_cast<float>(elems);
  if (HWY_LIKELY((elems & (elems - 1)) == 0)) return hn::Mul(sum, hn::Set(kDF, 1.0F / size));
  return hn::Div(sum, hn::Set(kDF, size));
}

// One step of N groups: adds the errors before it to slot t of `exact` and updates z.
template <Errors kErrors>
HWY_INLINE void StepLanes(const StepPlan& plan, size_t t, Order order, size_t elems, VF qmax, LaneSet& set,
                          ExactLanes& exact, ExactSum* step_abs) {
  StepKind kind = StepKind::kPlain;
  bool inert = true;
  // The thresholds fall from step to step: what is inert under the last one repeats itself once z does.
  if (HWY_UNLIKELY(!IsCalm(set))) {
    inert = LookAtStep(set, elems, qmax, hn::Set(kDF, plan.steps[t].inert_threshold),
                       hn::Set(kDF, plan.steps[plan.iters - 1].inert_threshold), kind);
  }
  const Sums<2> sums = RunStep<kErrors>(order, elems, set, kind, qmax, plan.steps[t], plan.shrinkage);
  if constexpr (kErrors == Errors::kYes) exact.Add(t, sums.x[1], set.count, step_abs[t]);
  const VF z = MeanOf(sums.x[0], elems);
  if (plan.exit_at_fixed_point && inert && SameBits(z, set.grid.z)) {
    set.settled = t;
    if constexpr (kErrors == Errors::kYes) {
      for (size_t u = t + 1; u < plan.iters; ++u) exact.Add(u, sums.x[1], set.count, step_abs[u]);
    }
  }
  set.grid.z = z;
}

// Runs the steps of one or two sets side by side: while the sums of one are reduced, divided and tested, one after the
// other, the elements of the other keep the pipes busy.
template <Errors kErrors>
HWY_INLINE void RunSteps(const StepPlan& plan, Order order, size_t elems, VF qmax, LaneSet* sets, size_t count,
                         ExactLanes& exact, ExactSum* step_abs) {
  for (size_t i = 0; i < count; ++i) sets[i].settled = plan.iters;
  for (size_t t = 0; t < plan.iters; ++t) {
    bool active = false;
    for (size_t i = 0; i < count; ++i) {
      if (sets[i].settled < plan.iters) continue;
      StepLanes<kErrors>(plan, t, order, elems, qmax, sets[i], exact, step_abs);
      active = true;
    }
    if (!active) return;
  }
}

// |e|, e² and w² are summed; of |e| the largest is kept too.
struct ErrorTerms {
  VF abs, square, weight2, largest;
  HWY_INLINE void Clear() { abs = square = weight2 = largest = hn::Zero(kDF); }
  HWY_INLINE void Add(const ErrorTerms& o) {
    abs = hn::Add(abs, o.abs);
    square = AddOnMulPipe(square, o.square);
    weight2 = hn::Add(weight2, o.weight2);
    largest = hn::Max(largest, o.largest);
  }
};

HWY_INLINE ErrorTerms TermsOfError(VF weight, VF q, VF stored_s, VF stored_z) {
  const VF e = hn::Sub(weight, hn::Mul(SubOnMulPipe(q, stored_z), stored_s));
  const VF a = hn::Abs(e);
  return {a, hn::Mul(e, e), hn::Mul(weight, weight), a};
}

// Errors of codes still to be derived, which take the place of what they are derived from: w·S or its clamped form ...
// The weight is read before the code is written, and the compiler, which is not told that they lie apart, keeps it so:
// a read right behind a write that lies a multiple of 4 KiB away may have to wait for it.
template <Clamp kClamp>
struct EncodedErrors {
  const float* w;
  float* codes;
  VF z, qmax, stored_s, stored_z;
  HWY_INLINE ErrorTerms operator()(size_t k) const {
    const VF weight = hn::Load(kDF, w + k * kLanes);
    VF q = hn::Round(hn::Add(hn::Load(kDF, codes + k * kLanes), z));
    if constexpr (kClamp == Clamp::kYes) q = hn::Min(hn::Max(q, hn::Zero(kDF)), qmax);
    hn::Store(q, kDF, codes + k * kLanes);
    return TermsOfError(weight, q, stored_s, stored_z);
  }
};

// ... of codes derived from the weights and each lane's own grid, kept at `codes` ...
struct GroupErrors {
  const float* w;
  float* codes;
  VF S, s, z, qmax;
  HWY_INLINE ErrorTerms operator()(size_t k) const {
    const VF weight = hn::Load(kDF, w + k * kLanes);
    const VF q = hn::Min(hn::Max(hn::Round(hn::Add(hn::Mul(weight, S), z)), hn::Zero(kDF)), qmax);
    hn::Store(q, kDF, codes + k * kLanes);
    return TermsOfError(weight, q, s, z);
  }
};

// ... and of codes that are given.
struct GivenErrors {
  const float* HWY_RESTRICT w;
  const float* HWY_RESTRICT codes;
  VF stored_s, stored_z;
  HWY_INLINE ErrorTerms operator()(size_t k) const {
    return TermsOfError(hn::Load(kDF, w + k * kLanes), hn::Load(kDF, codes + k * kLanes), stored_s, stored_z);
  }
};

// The first `count` lanes from memory; those beyond repeat the first.
HWY_INLINE VF FirstLanes(const float* values, size_t count) {
  if (count == kLanes) return hn::LoadU(kDF, values);
  HWY_ALIGN float each[kLanes];
  for (size_t lane = 0; lane < kLanes; ++lane) each[lane] = values[lane < count ? lane : 0];
  return hn::Load(kDF, each);
}

HWY_INLINE void StoreLanes(VF values, size_t count, float* out) {
  if (count == kLanes) {
    hn::StoreU(values, kDF, out);
    return;
  }
  HWY_ALIGN float each[kLanes];
  hn::Store(values, kDF, each);
  for (size_t lane = 0; lane < count; ++lane) out[lane] = each[lane];
}

// Each lane after one rounding to the stored dtype.
HWY_INLINE VF RoundLanes(VF values, DType stored) {
  if (stored == DType::kF32) return values;
#if HWY_TARGET <= HWY_AVX2 && HWY_ARCH_X86  // F16C rounds as round_to() does; emulations need not
  if (stored == DType::kF16) return hn::PromoteTo(kDF, hn::DemoteTo(hn::Rebind<hwy::float16_t, DF>(), values));
#endif
  HWY_ALIGN float each[kLanes];
  hn::Store(values, kDF, each);
  for (float& value : each) value = round_to(stored, value);
  return hn::Load(kDF, each);
}

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();
#endif

#endif
