// The search for scales, minima and codes of a super-block: one SIMD lane is one sub-block.
#if defined(HALFQUAD_KERNELS_SIMD_K_QUANT_SEARCH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HALFQUAD_KERNELS_SIMD_K_QUANT_SEARCH_INL_H_
#undef HALFQUAD_KERNELS_SIMD_K_QUANT_SEARCH_INL_H_
#else
#define HALFQUAD_KERNELS_SIMD_K_QUANT_SEARCH_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <limits>

#include <hwy/highway.h>

#include "kernels/decode.h"
#include "kernels/k_quant_block.h"

HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// Sums over sub-blocks, in order and in double: they decide between super-blocks' grids.
struct SuperSums {
  double error = 0;
  double aa = 0, ab = 0, bb = 0, aw = 0, bw = 0;  // of a = sc·steps, b = mn and the weights
};

inline float ClampedF16(float value) {
  constexpr float kMost = 65504.0F;
  const float inside = value > kMost ? kMost : value < -kMost ? -kMost : value;
  return f16_to_f32(f32_to_f16(inside));
}

// The fp16 number next to `value` that is farther from zero; the same when there is none.
inline float NextF16(float value) {
  const std::uint16_t bits = f32_to_f16(value);
  return (bits & 0x7FFFU) >= 0x7BFFU ? value : f16_to_f32(static_cast<std::uint16_t>(bits + 1));
}

inline float RoundHalfEven(float value) { return (value + 12582912.0F) - 12582912.0F; }  // |value| < 2^22

inline float RoundInto(float value, int lo, int hi) {
  const auto low = static_cast<float>(lo), high = static_cast<float>(hi);
  return RoundHalfEven(value < low ? low : value > high ? high : value);
}

template <GgmlKQuant kKind>
class KQuantSearch {
 public:
  // `weights`: 256 of them. `importance`: of each; null: all count the same.
  void Run(const float* HWY_RESTRICT weights, const float* HWY_RESTRICT importance, KQuantBlock& block) {
    Load(weights, importance);
    for (size_t v = 0; v < kSubs; v += kN) FitSubBlocks(v);
    Super best;
    best.sums.error = std::numeric_limits<double>::infinity();
    for (const int divisor : kDivisors) {
      Super start = Start(static_cast<float>(divisor));
      Consider(start, best);
      if (divisor == kDivisors[0]) {  // where fp16 is coarse the nearest d may be far too small
        start.d = NextF16(start.d);
        TakeSubScales(start);
        Consider(start, best);
      }
    }
    Improve(best);
    Encode(best, block);
  }

 private:
  static constexpr KQuantShape kShape = shape_of(kKind);
  static constexpr bool kMinima = kShape.min_hi > 0;
  static constexpr size_t kElems = static_cast<size_t>(kShape.sub_elems);
  static constexpr size_t kSubs = static_cast<size_t>(kShape.subs());
  static constexpr size_t kN = HWY_MIN(kSubs, HWY_LANES(float));
  static constexpr int kRounds = 4;       // of codes and least squares from each start of a sub-block
  static constexpr int kSuperRounds = 4;  // of neighbours and least squares
  // How far from an sc and an mn their neighbours lie: farther at first, since errors of few levels have many minima.
  struct Reach {
    int sc, mn;
  };
  static constexpr Reach kWide{4, 2}, kNarrow{1, 1};
  // Where the search for a sub-block begins: parts of its range, and what its largest weight is divided by.
  static constexpr float kParts[] = {1.0F, 1.06F, 1.03F, 0.97F, 0.94F, 0.91F, 0.88F, 0.85F, 0.8F, 0.75F, 0.7F, 0.6F};
  static constexpr float kLevelUnit = kShape.q_zero < 8 ? 0.5F : 1.0F;
  static constexpr float kLevelOffsets[] = {0.0F, -1.0F, 1.0F, -2.0F, 2.0F, -3.0F, 3.0F};
  // Where the search for d begins: the largest sub-block scale over these. Larger ones cut off the scales of outliers.
  static constexpr int kFarthest = kMinima ? kShape.scale_hi : kShape.scale_lo;
  static constexpr int kDivisors[] = {kFarthest, kMinima ? kShape.scale_hi - 1 : kShape.scale_hi, kFarthest * 5 / 4,
                                      kFarthest * 4 / 5};
  using D = hn::CappedTag<float, kSubs>;
  using V = hn::Vec<D>;
  static constexpr D kD{};

  // Of some sub-blocks, one a lane: the error with a scale and minimum, and what least squares wants to know. All terms
  // have an element's importance as a factor; where that is 1 its products are exact.
  struct Sums {
    V error, steps, steps2, product;
  };
  struct Grid {
    V s, m;
  };
  struct Super {
    float d = 0, dmin = 0;
    HWY_ALIGN float sc[kSubs] = {};
    HWY_ALIGN float mn[kSubs] = {};
    SuperSums sums;
  };

  void Load(const float* HWY_RESTRICT weights, const float* HWY_RESTRICT importance) {
    for (size_t j = 0; j < kSubs; ++j) {
      for (size_t k = 0; k < kElems; ++k) {
        w_[k * kSubs + j] = weights[j * kElems + k];
        h_[k * kSubs + j] = importance == nullptr ? 1.0F : importance[j * kElems + k];
      }
    }
  }

  static HWY_INLINE V Steps(V weight, V inverse_scale, V m) {
    const V lowest = hn::Set(kD, static_cast<float>(-kShape.q_zero));
    const V highest = hn::Set(kD, static_cast<float>(kShape.qmax - kShape.q_zero));
    const V shifted = kMinima ? hn::Add(weight, m) : weight;
    return hn::Min(hn::Max(hn::Round(hn::Mul(shifted, inverse_scale)), lowest), highest);
  }

  static HWY_INLINE V Inverse(V s) {
    const V one = hn::Set(kD, 1.0F);
    const auto none = hn::Eq(s, hn::Zero(kD));
    return hn::IfThenZeroElse(none, hn::Div(one, hn::IfThenElse(none, one, s)));
  }

  HWY_INLINE Sums Score(size_t v, const Grid& grid) const {
    const V inverse = Inverse(grid.s);
    Sums sums;
    sums.error = sums.steps = sums.steps2 = sums.product = hn::Zero(kD);
    for (size_t k = 0; k < kElems; ++k) {
      const V weight = hn::Load(kD, w_ + k * kSubs + v);
      const V steps = Steps(weight, inverse, grid.m);
      V restored = hn::Mul(grid.s, steps);
      if (kMinima) restored = hn::Sub(restored, grid.m);
      const V e = hn::Sub(weight, restored);
      const V h = hn::Load(kD, h_ + k * kSubs + v);
      const V h_steps = hn::Mul(h, steps);
      sums.error = hn::Add(sums.error, hn::Mul(hn::Mul(h, e), e));
      sums.steps = hn::Add(sums.steps, h_steps);
      sums.steps2 = hn::Add(sums.steps2, hn::Mul(h_steps, steps));
      sums.product = hn::Add(sums.product, hn::Mul(h_steps, weight));
    }
    return sums;
  }

  // Least squares of the weights on the steps; lanes without a solution keep their grid.
  HWY_INLINE Grid Fit(const Sums& sums, V n, V sum_w, const Grid& now) const {
    const V zero = hn::Zero(kD);
    const V alone = hn::Div(sums.product, hn::IfThenElse(hn::Gt(sums.steps2, zero), sums.steps2, hn::Set(kD, 1.0F)));
    if (!kMinima) return {hn::IfThenElse(hn::Gt(sums.steps2, zero), alone, now.s), zero};
    const V den = hn::Sub(hn::Mul(n, sums.steps2), hn::Mul(sums.steps, sums.steps));
    const V num = hn::Sub(hn::Mul(n, sums.product), hn::Mul(sums.steps, sum_w));
    const auto solved = hn::And(hn::Gt(den, zero), hn::Gt(num, zero));
    V s = hn::Div(num, hn::IfThenElse(solved, den, hn::Set(kD, 1.0F)));
    V m = hn::Div(hn::Sub(hn::Mul(s, sums.steps), sum_w), n);
    const auto negative = hn::Lt(m, zero);  // no minimum above zero can be stored
    s = hn::IfThenElse(negative, alone, s);
    m = hn::Max(m, zero);
    const auto usable = hn::And(solved, hn::Gt(s, zero));
    return {hn::IfThenElse(usable, s, now.s), hn::IfThenElse(usable, m, now.m)};
  }

  // The best scale and minimum of kN sub-blocks, each on its own, into s_ and m_.
  void FitSubBlocks(size_t v) {
    const V zero = hn::Zero(kD);
    V lo = hn::Load(kD, w_ + v), hi = lo, sum_h = zero, sum_w = zero;
    for (size_t k = 0; k < kElems; ++k) {
      const V weight = hn::Load(kD, w_ + k * kSubs + v);
      lo = hn::Min(lo, weight);
      hi = hn::Max(hi, weight);
      const V h = hn::Load(kD, h_ + k * kSubs + v);
      sum_h = hn::Add(sum_h, h);
      sum_w = hn::Add(sum_w, hn::Mul(h, weight));
    }
    Grid best{zero, zero};
    V best_error = hn::Set(kD, std::numeric_limits<float>::infinity());
    const auto refine = [&](Grid grid) HWY_ATTR {
      for (int round = 0; round < kRounds; ++round) {
        const Sums sums = Score(v, grid);
        const auto better = hn::Lt(sums.error, best_error);
        best_error = hn::IfThenElse(better, sums.error, best_error);
        best.s = hn::IfThenElse(better, grid.s, best.s);
        best.m = hn::IfThenElse(better, grid.m, best.m);
        grid = Fit(sums, sum_h, sum_w, grid);
      }
    };
    if (kMinima) {
      lo = hn::Min(lo, zero);
      const V mid = hn::Mul(hn::Set(kD, 0.5F), hn::Add(lo, hi));
      const V half = hn::Mul(hn::Set(kD, 0.5F), hn::Sub(hi, lo));
      for (const float part : kParts) {
        const V reach = hn::Mul(half, hn::Set(kD, part));
        const V s = hn::Div(hn::Add(reach, reach), hn::Set(kD, static_cast<float>(kShape.qmax)));
        refine({Sizable(s), hn::Max(hn::Sub(reach, mid), zero)});
      }
    } else {
      const V largest = hn::Max(hi, hn::Neg(lo));
      for (const float offset : kLevelOffsets) {
        const V s = hn::Div(largest, hn::Set(kD, static_cast<float>(kShape.q_zero) + kLevelUnit * offset));
        refine({Sizable(s), zero});
        refine({hn::Neg(Sizable(s)), zero});
      }
    }
    hn::Store(best.s, kD, s_ + v);
    hn::Store(best.m, kD, m_ + v);
    hn::Store(sum_h, kD, sum_h_ + v);
    hn::Store(sum_w, kD, sum_w_ + v);
  }

  // Scales far below what fp16 can hold count as zero, before their inverse overflows.
  static HWY_INLINE V Sizable(V s) { return hn::IfThenElseZero(hn::Gt(s, hn::Set(kD, 1e-30F)), s); }

  Super Start(float divisor) const {
    float largest = 0, largest_m = 0;
    for (size_t j = 0; j < kSubs; ++j) {
      if ((s_[j] < 0 ? -s_[j] : s_[j]) > (largest < 0 ? -largest : largest)) largest = s_[j];
      if (m_[j] > largest_m) largest_m = m_[j];
    }
    Super start;
    start.d = ClampedF16(largest / divisor);
    if (start.d == 0 && largest != 0) start.d = (largest < 0) == (divisor < 0) ? 0x1p-24F : -0x1p-24F;
    if (kMinima) {
      start.dmin = ClampedF16(largest_m / static_cast<float>(kShape.min_hi));
      if (start.dmin == 0 && largest_m != 0) start.dmin = 0x1p-24F;
    }
    TakeSubScales(start);
    return start;
  }

  // The sub-blocks' own scales and minima in units of d and dmin.
  void TakeSubScales(Super& super) const {
    for (size_t j = 0; j < kSubs; ++j) {
      super.sc[j] = super.d == 0 ? 0 : RoundInto(s_[j] / super.d, kShape.scale_lo, kShape.scale_hi);
      super.mn[j] = super.dmin == 0 ? 0 : RoundInto(m_[j] / super.dmin, 0, kShape.min_hi);
    }
  }

  void Consider(Super& candidate, Super& best) const {
    candidate.sums = {};
    for (size_t v = 0; v < kSubs; v += kN) {
      const V sc = hn::Load(kD, candidate.sc + v), mn = hn::Load(kD, candidate.mn + v);
      AddSums(v, sc, mn, Score(v, GridOf(candidate, sc, mn)), candidate.sums);
    }
    if (candidate.sums.error < best.sums.error) best = candidate;
  }

  static HWY_INLINE Grid GridOf(const Super& super, V sc, V mn) {
    return {hn::Mul(hn::Set(kD, super.d), sc), hn::Mul(hn::Set(kD, super.dmin), mn)};
  }

  void AddSums(size_t v, V sc_v, V mn_v, const Sums& of, SuperSums& sums) const {
    HWY_ALIGN float sc[kN], mn[kN], error[kN], steps[kN], steps2[kN], product[kN];
    hn::Store(sc_v, kD, sc);
    hn::Store(mn_v, kD, mn);
    hn::Store(of.error, kD, error);
    hn::Store(of.steps, kD, steps);
    hn::Store(of.steps2, kD, steps2);
    hn::Store(of.product, kD, product);
    for (size_t j = 0; j < kN; ++j) {
      const double a = sc[j], b = mn[j];
      sums.error += double{error[j]};
      sums.aa += a * a * double{steps2[j]};
      sums.ab += a * b * double{steps[j]};
      sums.bb += b * b * double{sum_h_[v + j]};
      sums.aw += a * double{product[j]};
      sums.bw += b * double{sum_w_[v + j]};
    }
  }

  // Tries the neighbours of every sc and mn, then d and dmin by least squares, and again.
  void Improve(Super& best) const {
    Super now = best;
    for (int round = 0; round < kSuperRounds; ++round) {
      now.sums = {};
      for (size_t v = 0; v < kSubs; v += kN) TakeNeighbours(v, now, round == 0 ? kWide : kNarrow);
      if (now.sums.error < best.sums.error) best = now;
      const float d = now.d, dmin = now.dmin;
      FitSuper(now);
      if (now.d == d && now.dmin == dmin) return;
    }
    now.sums = {};
    Consider(now, best);
  }

  void TakeNeighbours(size_t v, Super& super, const Reach& reach) const {
    const V sc = hn::Load(kD, super.sc + v), mn = hn::Load(kD, super.mn + v);
    V best_sc = sc, best_mn = mn;
    Sums best = Score(v, GridOf(super, sc, mn));
    for (int dm = kMinima ? -reach.mn : 0; dm <= (kMinima ? reach.mn : 0); ++dm) {
      const V near_mn = Within(hn::Add(mn, hn::Set(kD, static_cast<float>(dm))), 0, kShape.min_hi);
      for (int ds = -reach.sc; ds <= reach.sc; ++ds) {
        const V near_sc = Within(hn::Add(sc, hn::Set(kD, static_cast<float>(ds))), kShape.scale_lo, kShape.scale_hi);
        const Sums sums = Score(v, GridOf(super, near_sc, near_mn));
        const auto better = hn::Lt(sums.error, best.error);
        best_sc = hn::IfThenElse(better, near_sc, best_sc);
        best_mn = hn::IfThenElse(better, near_mn, best_mn);
        best.error = hn::IfThenElse(better, sums.error, best.error);
        best.steps = hn::IfThenElse(better, sums.steps, best.steps);
        best.steps2 = hn::IfThenElse(better, sums.steps2, best.steps2);
        best.product = hn::IfThenElse(better, sums.product, best.product);
      }
    }
    hn::Store(best_sc, kD, super.sc + v);
    hn::Store(best_mn, kD, super.mn + v);
    AddSums(v, best_sc, best_mn, best, super.sums);
  }

  static HWY_INLINE V Within(V x, int lo, int hi) {
    return hn::Min(hn::Max(x, hn::Set(kD, static_cast<float>(lo))), hn::Set(kD, static_cast<float>(hi)));
  }

  // d and dmin of the least squared error with the codes as they are.
  static void FitSuper(Super& super) {
    const SuperSums& s = super.sums;
    const double det = s.aa * s.bb - s.ab * s.ab;
    double d = s.aa > 0 ? s.aw / s.aa : 0;
    double dmin = super.dmin;
    if (det > 1e-9 * s.aa * s.bb) {
      d = (s.aw * s.bb - s.ab * s.bw) / det;
      dmin = (s.ab * s.aw - s.aa * s.bw) / det;
    }
    if (!(dmin >= 0) || (kMinima && !(d > 0))) return;
    super.d = ClampedF16(static_cast<float>(d));
    super.dmin = ClampedF16(static_cast<float>(dmin));
  }

  void Encode(const Super& super, KQuantBlock& block) const {
    block = {};
    block.d = f32_to_f16(super.d);
    block.dmin = f32_to_f16(super.dmin);
    HWY_ALIGN float steps[kN];
    for (size_t v = 0; v < kSubs; v += kN) {
      const V sc = hn::Load(kD, super.sc + v), mn = hn::Load(kD, super.mn + v);
      const Grid grid = GridOf(super, sc, mn);
      const V inverse = Inverse(grid.s);
      for (size_t k = 0; k < kElems; ++k) {
        hn::Store(Steps(hn::Load(kD, w_ + k * kSubs + v), inverse, grid.m), kD, steps);
        for (size_t j = 0; j < kN; ++j) {
          block.q[(v + j) * kElems + k] = static_cast<std::uint8_t>(static_cast<int>(steps[j]) + kShape.q_zero);
        }
      }
    }
    for (size_t j = 0; j < kSubs; ++j) {
      block.sc[j] = static_cast<std::int8_t>(super.sc[j]);
      block.mn[j] = static_cast<std::uint8_t>(super.mn[j]);
    }
  }

  HWY_ALIGN float w_[256];  // element k of sub-block j at k * kSubs + j
  HWY_ALIGN float h_[256];
  HWY_ALIGN float s_[kSubs];
  HWY_ALIGN float m_[kSubs];
  HWY_ALIGN float sum_h_[kSubs];
  HWY_ALIGN float sum_w_[kSubs];
};

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();

#endif
