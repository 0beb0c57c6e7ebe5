#include "kernels/als_search.h"
#include "kernels/simd/als_lanes.h"

// The same targets as simd_solver.cpp, whose solvers call these functions.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#define HWY_BROKEN_EMU128 1
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/als.cpp"  // NOLINT
#include <hwy/foreach_target.h>                    // must come before the per-target code

#include "kernels/simd/als_sums-inl.h"

#if HWY_TARGET != HWY_SCALAR  // one lane at a time is the reference solver
HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {
namespace {

// What a request looks like to N groups.
struct AlsPlan {
  VF qmax;
  int starts, rounds;
  int cut_h, cut_hd;  // low bits to round away
};

// N groups: their range, their weighted mean, and what a fit needs besides the sums over its codes.
struct AlsGroups {
  simd::AlsLanes lanes;
  MF wide;  // groups whose range counts
  VF range, half, mid;
  VF mean, offset, inverse_h, all_hd;
  VF s1, S1;
};

struct AlsCandidate {
  VF S, z;
  MF live;  // groups for which a fit may still change it
};

struct AlsBest {
  VF S, z, objective;
};

template <Columns kColumns>
AlsGroups BeginGroups(const simd::AlsLanes& lanes, const AlsPlan& plan) {
  const VF half = hn::Set(kDF, 0.5F), one = hn::Set(kDF, 1.0F);
  const VF lo = hn::Load(kDF, lanes.lo), hi = hn::Load(kDF, lanes.hi);
  AlsGroups groups;
  groups.lanes = lanes;
  groups.range = hn::Sub(hi, lo);
  groups.wide = hn::Gt(groups.range, hn::Set(kDF, AlsSearch::kNarrowest));
  groups.half = hn::Mul(half, groups.range);
  groups.mid = hn::Add(hn::Mul(half, lo), hn::Mul(half, hi));
  const RunningSums sums = SumOfFour(lanes.elems, MeanVisit<kColumns>{lanes.w, lanes.h});
  groups.mean = hn::Min(hn::Max(hn::Div(sums.y, sums.x), lo), hi);
  groups.s1 = hn::IfThenElse(groups.wide, hn::Div(groups.range, plan.qmax), one);
  groups.S1 = hn::Div(one, groups.s1);
  const CutVisit<kColumns> cut{lanes.w,     lanes.h,   lanes.cut_h, lanes.cut_hd,
                               groups.mean, groups.S1, plan.cut_h,  plan.cut_hd};
  const RunningSums all = SumOfFour(lanes.elems, cut);
  groups.inverse_h = hn::Div(one, all.x);
  groups.all_hd = all.y;
  groups.offset = hn::Mul(groups.all_hd, groups.inverse_h);
  return groups;
}

AlsCandidate BeginStart(const AlsGroups& groups, const AlsPlan& plan, int start) {
  const VF part = hn::Set(kDF, AlsSearch::part(start, plan.starts));
  AlsCandidate now;
  now.live = groups.wide;
  now.S = hn::Div(hn::Set(kDF, 1.0F), hn::Div(hn::Mul(groups.range, part), plan.qmax));
  now.z = hn::Mul(hn::Sub(hn::Mul(groups.half, part), groups.mid), now.S);
  return now;
}

// One round: derives the codes of `now` and fits the next pair to them.
template <Columns kColumns, Products kProducts>
HWY_NOINLINE void Refit(const AlsGroups& groups, const AlsPlan& plan, AlsCandidate& now) {
  const VF zero = hn::Zero(kDF);
  const VF mean_t = hn::Add(hn::Mul(groups.mean, now.S), now.z);
  const VF middle = hn::Min(hn::Max(hn::Round(mean_t), zero), plan.qmax);
  const FitVisit<kColumns, kProducts> visit{
      groups.lanes.w,         groups.lanes.cut_h,    groups.lanes.cut_hd,       now.S,
      hn::Sub(now.z, middle), hn::Sub(zero, middle), hn::Sub(plan.qmax, middle)};
  const RunningSums sums = SumOfFour(groups.lanes.elems, visit);
  const VF mean_q = hn::Mul(sums.x, groups.inverse_h);
  const VF den = hn::Sub(sums.y, hn::Mul(sums.x, mean_q));
  const VF num = hn::Sub(sums.z, hn::Mul(groups.all_hd, mean_q));
  const VF S = hn::Mul(groups.S1, hn::Div(den, num));
  const VF z =
      hn::Sub(hn::Sub(hn::Add(middle, mean_q), hn::Mul(groups.mean, S)), hn::Mul(groups.offset, hn::Mul(groups.s1, S)));
  const MF solved = hn::And(hn::Gt(num, zero), hn::Gt(den, zero));
  const MF repeats = hn::And(hn::Eq(S, now.S), hn::Eq(z, now.z));
  now.live = hn::And(now.live, hn::And(solved, hn::Not(repeats)));
  now.S = hn::IfThenElse(now.live, S, now.S);
  now.z = hn::IfThenElse(now.live, z, now.z);
}

template <Columns kColumns>
HWY_NOINLINE void Score(const AlsGroups& groups, const AlsPlan& plan, const AlsCandidate& now, AlsBest& best) {
  const ScoreVisit<kColumns> visit{groups.lanes.w, groups.lanes.h, now.S, now.z, plan.qmax};
  const VF errors = SumOfFour(groups.lanes.elems, visit).x;
  const VF ratio = hn::Mul(now.S, groups.s1);
  const VF objective = hn::Div(errors, hn::Mul(ratio, ratio));
  const MF better = hn::And(groups.wide, hn::Lt(objective, best.objective));
  best.objective = hn::IfThenElse(better, objective, best.objective);
  best.S = hn::IfThenElse(better, now.S, best.S);
  best.z = hn::IfThenElse(better, now.z, best.z);
}

template <Columns kColumns, Products kProducts>
AlsBest Search(const simd::AlsLanes& lanes, const AlsPlan& plan) {
  const AlsGroups groups = BeginGroups<kColumns>(lanes, plan);
  AlsBest best{hn::Set(kDF, 1.0F), hn::Sub(hn::Zero(kDF), groups.mean),
               hn::Set(kDF, std::numeric_limits<float>::infinity())};
  AlsCandidate starts[QuantSpec::kMaxStarts];
  for (int i = 0; i < plan.starts; ++i) starts[i] = BeginStart(groups, plan, i);
  best.S = hn::IfThenElse(groups.wide, starts[0].S, best.S);
  best.z = hn::IfThenElse(groups.wide, starts[0].z, best.z);
  Score<kColumns>(groups, plan, starts[0], best);
  // Round by round: while the sums of one start are joined and divided, the elements of the next keep the pipes busy.
  for (int round = 0; round < plan.rounds; ++round) {
    bool active = false;
    for (int i = 0; i < plan.starts; ++i) {
      if (hn::AllFalse(kDF, starts[i].live)) continue;
      Refit<kColumns, kProducts>(groups, plan, starts[i]);
      active = true;
    }
    if (!active) break;
  }
  for (int i = 0; i < plan.starts; ++i) Score<kColumns>(groups, plan, starts[i], best);
  return best;
}

// N groups whose zeros are whole numbers.
struct WholePlan {
  simd::AlsLanes lanes;
  VF qmax, length, middle, s1;
};

// A candidate of each group and what is known of its codes; the score of none is infinite.
struct WholeLook {
  VF S, z, score, fit;
};

// The zero of every group that is symmetric, and of those that are constant.
inline float FixedZero(const QuantSpec& spec) {
  return spec.zeros == ZeroKind::kSymmetric ? static_cast<float>((qmax(spec.width) + 1) / 2) : 0.0F;
}

template <Columns kColumns>
HWY_NOINLINE WholeLook LookAt(const WholePlan& plan, VF S, VF z) {
  const RunningSums sums =
      SumOfFour(plan.lanes.elems, WholeVisit<kColumns>{plan.lanes.w, plan.lanes.h, S, z, plan.qmax});
  const VF zero = hn::Zero(kDF);
  const VF ratio = hn::Mul(S, plan.s1);
  const MF fits = hn::Gt(sums.y, zero);
  const VF fit = hn::Div(sums.z, hn::IfThenElse(fits, sums.y, hn::Set(kDF, 1.0F)));
  return {S, z, hn::Div(sums.x, hn::Mul(ratio, ratio)), hn::IfThenElseZero(fits, fit)};
}

HWY_INLINE WholeLook TakeWhere(MF where, const WholeLook& a, const WholeLook& b) {
  return {hn::IfThenElse(where, a.S, b.S), hn::IfThenElse(where, a.z, b.z), hn::IfThenElse(where, a.score, b.score),
          hn::IfThenElse(where, a.fit, b.fit)};
}

// A round: takes over the S that fits where it lowers the score. Whether it did anywhere.
template <Columns kColumns>
HWY_INLINE bool Refine(const WholePlan& plan, WholeLook& now) {
  const VF none = hn::Set(kDF, std::numeric_limits<float>::infinity());
  const MF live = hn::And(hn::Gt(now.fit, hn::Zero(kDF)), hn::Lt(now.score, none));
  if (hn::AllFalse(kDF, live)) return false;
  const WholeLook next = LookAt<kColumns>(plan, hn::IfThenElse(live, now.fit, now.S), now.z);
  const MF better = hn::And(live, hn::Lt(next.score, now.score));
  now = TakeWhere(better, next, now);
  return !hn::AllFalse(kDF, better);
}

// Puts a candidate among those that are kept, the best first; the last falls out.
HWY_INLINE void Insert(WholeLook next, WholeLook* kept) {
  for (int i = 0; i < AlsSearch::kKept; ++i) {
    const MF better = hn::Lt(next.score, kept[i].score);
    const WholeLook out = TakeWhere(better, kept[i], next);
    kept[i] = TakeWhere(better, next, kept[i]);
    next = out;
  }
}

template <Columns kColumns>
WholeLook SearchWhole(const WholePlan& plan, const QuantSpec& spec) {
  const VF zero = hn::Zero(kDF), one = hn::Set(kDF, 1.0F), half = hn::Set(kDF, 0.5F);
  const VF none = hn::Set(kDF, std::numeric_limits<float>::infinity());
  const bool symmetric = spec.zeros == ZeroKind::kSymmetric;
  WholeLook kept[AlsSearch::kKept];
  const VF fixed = hn::Set(kDF, FixedZero(spec));
  for (WholeLook& look : kept) look = {one, fixed, none, zero};
  for (int i = 0; i < spec.starts; ++i) {
    const VF covered = hn::Mul(plan.length, hn::Set(kDF, AlsSearch::part(i, spec.starts)));
    const VF scale = hn::Div(covered, plan.qmax);
    const VF S = hn::Div(one, scale);
    if (symmetric) {
      WholeLook look = LookAt<kColumns>(plan, S, fixed);
      static_cast<void>(Refine<kColumns>(plan, look));
      Insert(look, kept);
      continue;
    }
    const VF own = hn::Round(hn::Div(hn::Sub(hn::Mul(half, covered), plan.middle), scale));
    for (const float aside : AlsSearch::kAside) {
      const VF z = hn::Add(own, hn::Set(kDF, aside));
      const MF valid = hn::And(hn::Ge(z, zero), hn::Le(z, plan.qmax));
      if (hn::AllFalse(kDF, valid)) continue;
      WholeLook look = LookAt<kColumns>(plan, S, z);
      look.score = hn::IfThenElse(valid, look.score, none);
      static_cast<void>(Refine<kColumns>(plan, look));
      Insert(look, kept);
    }
  }
  for (int round = 1; round < spec.rounds; ++round) {
    bool active = false;
    for (WholeLook& now : kept) active = Refine<kColumns>(plan, now) || active;
    if (!active) break;
  }
  WholeLook best = kept[0];
  for (int i = 1; i < AlsSearch::kKept; ++i) best = TakeWhere(hn::Lt(kept[i].score, best.score), kept[i], best);
  return best;
}

}  // namespace

void SearchAlsWhole(const simd::AlsLanes& lanes, const QuantSpec& spec) {
  const VF zero = hn::Zero(kDF), one = hn::Set(kDF, 1.0F), half = hn::Set(kDF, 0.5F);
  const VF lo = hn::Min(hn::Load(kDF, lanes.lo), zero), hi = hn::Max(hn::Load(kDF, lanes.hi), zero);
  const bool symmetric = spec.zeros == ZeroKind::kSymmetric;
  const VF length = symmetric ? hn::Mul(hn::Set(kDF, 2.0F), hn::Max(hn::Neg(lo), hi)) : hn::Sub(hi, lo);
  const MF wide = hn::Gt(length, hn::Set(kDF, AlsSearch::kNarrowest));
  WholePlan plan{lanes, hn::Set(kDF, static_cast<float>(qmax(spec.width))), hn::IfThenElse(wide, length, one), zero,
                 one};
  if (!symmetric) plan.middle = hn::IfThenElseZero(wide, hn::Mul(half, hn::Add(lo, hi)));
  plan.s1 = hn::Div(plan.length, plan.qmax);
  const WholeLook best =
      lanes.h != nullptr ? SearchWhole<Columns::kWeighted>(plan, spec) : SearchWhole<Columns::kAlike>(plan, spec);
  hn::Store(hn::IfThenElse(wide, best.S, one), kDF, lanes.S);
  hn::Store(hn::IfThenElse(wide, best.z, hn::Set(kDF, FixedZero(spec))), kDF, lanes.z);
}

void SearchAls(const simd::AlsLanes& lanes, const QuantSpec& spec) {
  const AlsPlan plan{hn::Set(kDF, static_cast<float>(qmax(spec.width))), spec.starts, spec.rounds,
                     AlsSearch::cut_bits_of_h(spec.width), AlsSearch::cut_bits_of_p(spec.width)};
  const bool exact = AlsSearch::cuts(spec.width);
  const bool columns = lanes.h != nullptr;
  const auto search =
      exact     ? columns ? Search<Columns::kWeighted, Products::kExact> : Search<Columns::kAlike, Products::kExact>
          : columns ? Search<Columns::kWeighted, Products::kRounded>
                : Search<Columns::kAlike, Products::kRounded>;
  const AlsBest best = search(lanes, plan);
  hn::Store(best.S, kDF, lanes.S);
  hn::Store(best.z, kDF, lanes.z);
}

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();
#endif
