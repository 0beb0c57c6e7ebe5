#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/solver.h"
#include "runtime/check.h"

// Scalable vectors (SVE, RVV) have no compile-time width, which the transposition needs: such CPUs run NEON or the
// reference.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
// Emulated vectors lose NaN in places; the reference solver, which needs no vectors, takes their place (as it does with
// GCC, for which Highway itself gives them up).
#define HWY_BROKEN_EMU128 1
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/simd_solver.cpp"  // NOLINT
#include <hwy/foreach_target.h>                            // must come before the per-target code

#include "kernels/simd/als_lanes.h"
#include "kernels/simd/importance-inl.h"
#include "kernels/simd/integer_zero-inl.h"
#include "kernels/simd/solve-inl.h"

HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {
#if HWY_TARGET == HWY_SCALAR

Solver* NewSimdSolver(const char* /*name*/) { return make_reference_solver().release(); }

#else

void SearchAls(const simd::AlsLanes& lanes, const QuantSpec& spec);       // als.cpp
void SearchAlsWhole(const simd::AlsLanes& lanes, const QuantSpec& spec);  // als.cpp

namespace {

// Slots of the exact sums after those of the steps.
enum ErrorSlot : size_t { kAbsSlot, kSquareSlot, kWeightSlot, kWeightedSquareSlot, kWeightedWeightSlot, kErrorSlots };

class SimdSolver final : public Solver {
 public:
  explicit SimdSolver(const char* name) : name_(name), scratch_(kLanes) {}

  [[nodiscard]] std::string name() const override { return name_; }

  void solve(const GroupBlock& block, const SolveRequest& request, const SolveTarget& target,
             SolveStats& stats) override {
    const bool fractional = request.spec.zeros == ZeroKind::kFloat;
    if (!fractional && !request.spec.weighted()) return solve_integer_zeros(block, request, target, stats);
    if (request.spec.solver == SolverKind::kAls) return solve_als(block, request, target, stats);
    const bool steps = request.spec.optimizes();
    const StepPlan plan = steps ? plan_steps(request) : StepPlan{};
    const bool record = steps && request.record == RecordErrors::kYes;
    const size_t slots = record ? plan.iters : 0;
    scratch_.reserve(static_cast<size_t>(block.group_elems), slots + kErrorSlots);
    ExactLanes exact(scratch_, slots + kErrorSlots);
    const VF qmax_v = hn::Set(kDF, static_cast<float>(qmax(request.spec.width)));
    const Order order = OrderOf(block);
    const size_t elems = static_cast<size_t>(block.group_elems);
    const size_t groups = static_cast<size_t>(block.groups);

    const size_t side_by_side = plan.iters > 0 && elems <= simd::kMostPairedElems ? 2 : 1;
    for (size_t first = 0; first < groups;) {
      LaneSet sets[2];
      size_t n = 0;
      for (; n < side_by_side && first < groups; ++n, first += kLanes) {
        if (HWY_UNLIKELY(!load(block, first, n, request.spec.round_zero, qmax_v, sets[n]))) {
          stats.nonfinite = true;
          return;
        }
      }
      if (record) {
        RunSteps<Errors::kYes>(plan, order, elems, qmax_v, sets, n, exact, stats.step_abs.data());
      } else {
        RunSteps<Errors::kNo>(plan, order, elems, qmax_v, sets, n, exact, nullptr);
      }
      bool full = false;
      for (size_t i = 0; i < n; ++i) {
        if (HWY_UNLIKELY(!store(block, request, sets[i], qmax_v, target, slots, exact, stats))) {
          stats.nonfinite = true;
          return;
        }
        if (exact.CountVector()) full = true;
      }
      if (full) flush(exact, slots, stats);
    }
    flush(exact, slots, stats);
  }

  void encode(const GroupBlock& block, CodeWidth width, const FixedGrid& fixed, DType stored, const SolveTarget& target,
              SolveStats& stats) override {
    scratch_.reserve(static_cast<size_t>(block.group_elems), kErrorSlots);
    ExactLanes exact(scratch_, kErrorSlots);
    const VF qmax_v = hn::Set(kDF, static_cast<float>(qmax(width)));
    LaneSet set;
    set.weights = scratch_.weights[0];
    set.grid.S = hn::Set(kDF, fixed.inverse_scale);
    set.grid.z = hn::Set(kDF, fixed.zero);
    const StoredGrid rounded{hn::Set(kDF, round_to(stored, fixed.scale)), hn::Set(kDF, round_to(stored, fixed.zero))};
    const size_t elems = static_cast<size_t>(block.group_elems);
    const size_t groups = static_cast<size_t>(block.groups);
    for (size_t first = 0; first < groups; first += kLanes) {
      set.first = first;
      set.count = groups - first < kLanes ? groups - first : kLanes;
      LoadLanes(block, first, set.count, scratch_, set.weights.w);
      if (HasNonfinite(set.weights.w, elems)) stats.nonfinite = true;
      ScaleWeights(set.weights.w, set.grid.S, elems, set.weights.ws);
      record_errors(finish<Clamp::kYes>(block, set, set.weights.ws, qmax_v, rounded, target), set.count, 0, exact,
                    stats.final_error);
      if (exact.CountVector()) flush(exact, 0, stats);
    }
    flush(exact, 0, stats);
  }

  void encode_groups(const GroupBlock& block, CodeWidth width, const GroupGrids& grids, const SolveTarget& target,
                     SolveStats& stats) override {
    const size_t elems = static_cast<size_t>(block.group_elems);
    const size_t groups = static_cast<size_t>(block.groups);
    scratch_.reserve(elems, kErrorSlots);
    ExactLanes exact(scratch_, kErrorSlots);
    const VF qmax_v = hn::Set(kDF, static_cast<float>(qmax(width)));
    const simd::WeightLanes& lanes = scratch_.weights[0];
    LoadedImportance importance(block, scratch_, lanes.clamped);
    for (size_t first = 0; first < groups; first += kLanes) {
      const size_t count = groups - first < kLanes ? groups - first : kLanes;
      LoadLanes(block, first, count, scratch_, lanes.w);
      const GroupErrors errors{lanes.w,
                               lanes.ws,
                               FirstLanes(grids.inverse_scale + first, count),
                               FirstLanes(grids.scale + first, count),
                               FirstLanes(grids.zero + first, count),
                               qmax_v};
      const ErrorTerms terms = SumGroup(OrderOf(block), elems, errors);
      // Whatever is not finite among the weights shows in the sum of its group's errors.
      const MF finite = hn::Le(terms.abs, hn::Set(kDF, std::numeric_limits<float>::max()));
      if (HWY_UNLIKELY(!hn::AllTrue(kDF, finite)) && HasNonfinite(lanes.w, elems)) {
        stats.nonfinite = true;
        return;
      }
      StoreCodes(block, first, count, lanes.ws, target);
      record_errors(terms, count, 0, exact, stats.final_error);
      if (block.importance.h != nullptr) {
        importance.Load(first, count);
        record_weighted(block, count, {lanes.w, lanes.ws, lanes.clamped, errors.s, errors.z}, exact, stats.final_error);
      }
      if (exact.CountVector()) flush(exact, 0, stats);
    }
    flush(exact, 0, stats);
  }

  void refit_zeros(const GroupBlock& block, CodeWidth width, const GroupGrids& grids, const float* stored_scale,
                   float* zero) override {
    const size_t elems = static_cast<size_t>(block.group_elems);
    const size_t groups = static_cast<size_t>(block.groups);
    scratch_.reserve(elems, 0);
    const VF qmax_v = hn::Set(kDF, static_cast<float>(qmax(width)));
    const simd::WeightLanes& lanes = scratch_.weights[0];
    LoadedImportance importance(block, scratch_, lanes.clamped);
    for (size_t first = 0; first < groups; first += kLanes) {
      const size_t count = groups - first < kLanes ? groups - first : kLanes;
      LoadLanes(block, first, count, scratch_, lanes.w);
      importance.Load(first, count);
      const MeanTerms terms{lanes.w, lanes.clamped, FirstLanes(grids.inverse_scale + first, count),
                            FirstLanes(grids.zero + first, count), qmax_v};
      const Sums<3> sums = SumGroup(OrderOf(block), elems, terms);
      const VF mean_w = hn::Div(sums.x[1], sums.x[0]);
      const VF mean_q = hn::Div(sums.x[2], sums.x[0]);
      StoreLanes(hn::Sub(mean_q, hn::Div(mean_w, FirstLanes(stored_scale + first, count))), count, zero + first);
    }
  }

  [[nodiscard]] WeightRange range(const std::byte* data, DType dtype, std::int64_t count) override {
    constexpr std::int64_t kChunk = 4096;
    scratch_.reserve(static_cast<size_t>(kChunk), kErrorSlots);
    WeightRange all;
    for (std::int64_t begin = 0; begin < count; begin += kChunk) {
      const std::int64_t n = count - begin < kChunk ? count - begin : kChunk;
      float* const w = scratch_.weights[0].w;
      decode_to_f32(data + begin * bytes_of(dtype), dtype, n, w);
      const size_t vectors = (static_cast<size_t>(n) + kLanes - 1) / kLanes;
      for (size_t i = static_cast<size_t>(n); i < vectors * kLanes; ++i) w[i] = w[0];
      VF lo, hi;
      WeightRange chunk;
      static_cast<void>(RangeOf(FindLargestBits(w, vectors), w, vectors, lo, hi));
      chunk.nonfinite = HasNonfinite(w, vectors);
      HWY_ALIGN float low[kLanes], high[kLanes];
      hn::Store(lo, kDF, low);
      hn::Store(hi, kDF, high);
      for (size_t lane = 0; lane < kLanes; ++lane) all.add({low[lane], high[lane], chunk.nonfinite});
    }
    return all;
  }

  void measure(const GroupBlock& block, const GivenCodes& given, ErrorSums& sums) override {
    scratch_.reserve(static_cast<size_t>(block.group_elems), kErrorSlots);
    ExactLanes exact(scratch_, kErrorSlots);
    GroupBlock code_block = block;
    code_block.data = reinterpret_cast<const std::byte*>(given.codes);
    code_block.dtype = DType::kU8;
    SolveStats stats;
    const size_t elems = static_cast<size_t>(block.group_elems);
    const size_t groups = static_cast<size_t>(block.groups);
    const simd::WeightLanes& lanes = scratch_.weights[0];
    LoadedImportance importance(block, scratch_, lanes.clamped);
    for (size_t first = 0; first < groups; first += kLanes) {
      const size_t count = groups - first < kLanes ? groups - first : kLanes;
      LoadLanes(code_block, first, count, scratch_, lanes.ws);
      if (given.levels != nullptr) {
        for (size_t i = 0; i < elems * kLanes; ++i) lanes.ws[i] = given.levels[static_cast<size_t>(lanes.ws[i])];
      }
      LoadLanes(block, first, count, scratch_, lanes.w);
      const GivenErrors errors{lanes.w, lanes.ws, FirstLanes(given.scale + first, count),
                               FirstLanes(given.zero + first, count)};
      record_errors(SumGroup(OrderOf(block), elems, errors), count, 0, exact, stats.final_error);
      if (block.importance.h != nullptr) {
        importance.Load(first, count);
        record_weighted(block, count, {lanes.w, lanes.ws, lanes.clamped, errors.stored_s, errors.stored_z}, exact,
                        stats.final_error);
      }
      if (exact.CountVector()) flush(exact, 0, stats);
    }
    flush(exact, 0, stats);
    sums.add(stats.final_error);
  }

 private:
  void solve_als(const GroupBlock& block, const SolveRequest& request, const SolveTarget& target, SolveStats& stats) {
    const size_t elems = static_cast<size_t>(block.group_elems);
    const size_t groups = static_cast<size_t>(block.groups);
    scratch_.reserve(elems, kErrorSlots);
    ExactLanes exact(scratch_, kErrorSlots);
    const VF most = hn::Set(kDF, std::numeric_limits<float>::max());
    const VF qmax_v = hn::Set(kDF, static_cast<float>(qmax(request.spec.width)));
    const bool whole = request.spec.zeros != ZeroKind::kFloat;
    LaneSet set{};
    set.weights = scratch_.weights[0];
    set.calm_low = hn::Set(kDF, 1.0F);  // nothing is known about any zero
    set.calm_high = hn::Zero(kDF);
    LoadedImportance importance(block, scratch_, set.weights.clamped);
    HWY_ALIGN float lo[kLanes], hi[kLanes], S[kLanes], z[kLanes];
    simd::AlsLanes lanes{set.weights.w, nullptr, set.weights.ws, scratch_.rows, elems, lo, hi, S, z};
    if (block.importance.h != nullptr) lanes.h = set.weights.clamped;
    for (size_t first = 0; first < groups; first += kLanes) {
      set.first = first;
      set.count = groups - first < kLanes ? groups - first : kLanes;
      const LargestBits largest = LoadLanesAndLargest(block, first, set.count, scratch_, set.weights.w);
      VF lowest, highest;
      const bool beyond_f32 = RangeOf(largest, set.weights.w, elems, lowest, highest);
      const Span span = SpanOf(lowest, highest, request.spec.zeros);
      if (HWY_UNLIKELY(beyond_f32 || (whole && !hn::AllTrue(kDF, hn::Le(span.length, most))))) {
        stats.nonfinite = true;
        return;
      }
      hn::Store(lowest, kDF, lo);
      hn::Store(highest, kDF, hi);
      if (lanes.h != nullptr) importance.Load(first, set.count);
      if (whole) {
        SearchAlsWhole(lanes, request.spec);
      } else {
        SearchAls(lanes, request.spec);
      }
      set.grid.S = hn::Load(kDF, S);
      set.grid.s = hn::Div(hn::Set(kDF, 1.0F), set.grid.S);
      set.grid.z = hn::Load(kDF, z);
      if (request.finish == Finish::kCodes) ScaleWeights(set.weights.w, set.grid.S, elems, set.weights.ws);
      if (HWY_UNLIKELY(!store(block, request, set, qmax_v, target, 0, exact, stats))) {
        stats.nonfinite = true;
        return;
      }
      if (exact.CountVector()) flush(exact, 0, stats);
    }
    flush(exact, 0, stats);
  }

  void solve_integer_zeros(const GroupBlock& block, const SolveRequest& request, const SolveTarget& target,
                           SolveStats& stats) {
    const size_t elems = static_cast<size_t>(block.group_elems);
    const size_t groups = static_cast<size_t>(block.groups);
    scratch_.reserve(elems, kErrorSlots);
    ExactLanes exact(scratch_, kErrorSlots);
    const VF most = hn::Set(kDF, std::numeric_limits<float>::max());
    const VF qmax_v = hn::Set(kDF, static_cast<float>(qmax(request.spec.width)));
    const IntegerZeroSearch search(request.spec, block.group_elems);
    LaneSet set{};
    set.weights = scratch_.weights[0];
    set.calm_low = hn::Set(kDF, 1.0F);  // nothing is known about any zero
    set.calm_high = hn::Zero(kDF);
    for (size_t first = 0; first < groups; first += kLanes) {
      set.first = first;
      set.count = groups - first < kLanes ? groups - first : kLanes;
      const LargestBits largest = LoadLanesAndLargest(block, first, set.count, scratch_, set.weights.w);
      VF lo, hi;
      const bool beyond_f32 = RangeOf(largest, set.weights.w, elems, lo, hi);
      const Span span = SpanOf(lo, hi, request.spec.zeros);
      if (HWY_UNLIKELY(beyond_f32 || !hn::AllTrue(kDF, hn::Le(span.length, most)))) {
        stats.nonfinite = true;
        return;
      }
      auto* const room = reinterpret_cast<std::int16_t*>(set.weights.ws);
      const WholeGrid best = fused_products_
                                 ? SearchIntegerZero<FusedProducts>(set.weights.w, elems, span, search, room)
                                 : SearchIntegerZero<Products>(set.weights.w, elems, span, search, room);
      set.grid.S = hn::Div(hn::Set(kDF, 1.0F), best.s);
      set.grid.s = best.s;
      set.grid.z = best.z;
      if (request.finish == Finish::kCodes) ScaleWeights(set.weights.w, set.grid.S, elems, set.weights.ws);
      if (HWY_UNLIKELY(!store(block, request, set, qmax_v, target, 0, exact, stats))) {
        stats.nonfinite = true;
        return;
      }
      if (exact.CountVector()) flush(exact, 0, stats);
    }
    flush(exact, 0, stats);
  }

  // The constants live in step_constants_ as long as the plan is used; the calls for one tensor share them.
  StepPlan plan_steps(const SolveRequest& request) {
    if (step_constants_.size() != static_cast<size_t>(request.iters) || !(planned_ == request.spec)) {
      step_constants_.clear();
      for (int t = 0; t < request.iters; ++t) step_constants_.push_back(step_constants(request.spec, t));
      planned_ = request.spec;
    }
    StepPlan plan;
    plan.steps = step_constants_.data();
    plan.iters = step_constants_.size();
    plan.shrinkage = {power_exponent(request.spec.lp_norm), request.spec.lp_norm >= 1};
    plan.exit_at_fixed_point = request.exit == FixedPointExit::kOn;
    return plan;
  }

  // Loads groups [first, first + N) and starts their grid. False when a range is not finite.
  bool load(const GroupBlock& block, size_t first, size_t place, bool round_zero, VF qmax_v, LaneSet& set) {
    const size_t elems = static_cast<size_t>(block.group_elems);
    const size_t rest = static_cast<size_t>(block.groups) - first;
    set.weights = scratch_.weights[place];
    set.first = first;
    set.count = rest < kLanes ? rest : kLanes;
    set.settled = 0;
    set.has_clamped = false;
    set.calm_low = hn::Set(kDF, 1.0F);  // nothing is known yet
    set.calm_high = hn::Zero(kDF);
    const LargestBits largest = LoadLanesAndLargest(block, first, set.count, scratch_, set.weights.w);
    VF lo, hi;
    if (HWY_UNLIKELY(RangeOf(largest, set.weights.w, elems, lo, hi))) return false;
    set.grid = StartGrid(lo, hi, qmax_v, round_zero);
    ScaleWeights(set.weights.w, set.grid.S, elems, set.weights.ws);
    return true;
  }

  // Writes scale, zero and codes of N groups whose z is final and adds their errors. False when a weight was NaN.
  bool store(const GroupBlock& block, const SolveRequest& request, const LaneSet& set, VF qmax_v,
             const SolveTarget& target, size_t slots, ExactLanes& exact, SolveStats& stats) {
    StoreLanes(set.grid.s, set.count, target.scale + set.first);
    StoreLanes(set.grid.z, set.count, target.zero + set.first);
    if (static_cast<int>(set.settled) > stats.settled) stats.settled = static_cast<int>(set.settled);
    if (request.finish == Finish::kGridOnly) return true;
    const StoredGrid stored{RoundLanes(set.grid.s, request.stored), RoundLanes(set.grid.z, request.stored)};
    const ErrorTerms terms = IsCalm(set) ? finish<Clamp::kNo>(block, set, set.codes_from, qmax_v, stored, target)
                                         : finish<Clamp::kYes>(block, set, set.weights.ws, qmax_v, stored, target);
    // A NaN among the weights shows in the sum of its group's errors.
    if (HWY_UNLIKELY(!hn::AllTrue(kDF, hn::Eq(terms.abs, terms.abs))) &&
        HasNonfinite(set.weights.w, static_cast<size_t>(block.group_elems))) {
      return false;
    }
    record_errors(terms, set.count, slots, exact, stats.final_error);
    return true;
  }

  // Writes the codes of N groups, which are left at `codes_from`, and returns their errors.
  template <Clamp kClamp>
  ErrorTerms finish(const GroupBlock& block, const LaneSet& set, float* codes_from, VF qmax_v, const StoredGrid& stored,
                    const SolveTarget& target) {
    const EncodedErrors<kClamp> errors{set.weights.w, codes_from, set.grid.z, qmax_v, stored.s, stored.z};
    const ErrorTerms terms = SumGroup(OrderOf(block), static_cast<size_t>(block.group_elems), errors);
    StoreCodes(block, set.first, set.count, codes_from, target);
    return terms;
  }

  static void record_errors(const ErrorTerms& terms, size_t count, size_t first_slot, ExactLanes& exact,
                            ErrorSums& sums) {
    exact.Add(first_slot + kAbsSlot, terms.abs, count, sums.abs);
    exact.Add(first_slot + kSquareSlot, terms.square, count, sums.square);
    exact.Add(first_slot + kWeightSlot, terms.weight2, count, sums.weight2);
    // As ErrorSums::add_group(): where the sum overflowed, or was NaN, the largest error counts as the largest float.
    const VF most = hn::Set(kDF, std::numeric_limits<float>::max());
    const VF errors = hn::IfThenElse(hn::Le(terms.abs, most), terms.largest, most);
    const float largest = hn::GetLane(hn::MaxOfLanes(kDF, errors));
    if (largest > sums.max_abs) sums.max_abs = largest;
  }

  static void record_weighted(const GroupBlock& block, size_t count, const WeightedErrors& errors, ExactLanes& exact,
                              ErrorSums& sums) {
    const Sums<2> terms = SumGroup(OrderOf(block), static_cast<size_t>(block.group_elems), errors);
    exact.Add(kWeightedSquareSlot, terms.x[0], count, sums.weighted_square);
    exact.Add(kWeightedWeightSlot, terms.x[1], count, sums.weighted_weight2);
  }

  static void flush(ExactLanes& exact, size_t slots, SolveStats& stats) {
    for (size_t slot = 0; slot < slots; ++slot) exact.Flush(slot, stats.step_abs[slot]);
    exact.Flush(slots + kAbsSlot, stats.final_error.abs);
    exact.Flush(slots + kSquareSlot, stats.final_error.square);
    exact.Flush(slots + kWeightSlot, stats.final_error.weight2);
    exact.Flush(slots + kWeightedSquareSlot, stats.final_error.weighted_square);
    exact.Flush(slots + kWeightedWeightSlot, stats.final_error.weighted_weight2);
    exact.EndFlush();
  }

  std::string name_;
  bool fused_products_ = HasFusedProducts();
  simd::Scratch scratch_;
  std::vector<StepConstants> step_constants_;
  QuantSpec planned_;  // whose constants those are
};

}  // namespace

Solver* NewSimdSolver(const char* name) { return new SimdSolver(name); }

#endif

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "kernels/simd/chosen_target.h"

namespace halfquad {
namespace {

HWY_EXPORT(NewSimdSolver);

}  // namespace

std::vector<std::string> simd_targets() {
  std::vector<std::string> names;
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (target != HWY_SCALAR) names.emplace_back(hwy::TargetName(target));
  }
  return names;
}

std::unique_ptr<Solver> make_simd_solver(const std::optional<std::string>& target) {
  const simd::FoundTarget found = simd::find_target(target);
  const auto create = HWY_DISPATCH_TABLE(NewSimdSolver)[found.index];
  return std::unique_ptr<Solver>(create(("simd " + found.name).c_str()));
}

}  // namespace halfquad
#endif
