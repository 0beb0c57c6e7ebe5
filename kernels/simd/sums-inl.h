// Sums over the elements of a group in the canonical order, N groups at a time.
#if defined(HALFQUAD_KERNELS_SIMD_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HALFQUAD_KERNELS_SIMD_SUMS_INL_H_
#undef HALFQUAD_KERNELS_SIMD_SUMS_INL_H_
#else
#define HALFQUAD_KERNELS_SIMD_SUMS_INL_H_
#endif

#include <bit>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/exact_sum.h"
#include "kernels/simd/lanes-inl.h"

#if HWY_TARGET != HWY_SCALAR  // one lane at a time is the reference solver
HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {

// Several sums over the same elements. A visitor `visit(k)` returns the terms of element k as one of these, or as any
// type with Clear() and Add().
template <int kSums>
struct Sums {
  VF x[kSums];
  HWY_INLINE void Clear() {
    for (int i = 0; i < kSums; ++i) x[i] = hn::Zero(kDF);
  }
  // Every other sum through the multiply pipes, which evens the load of the solver's step: four operations each.
  HWY_INLINE void Add(const Sums& o) {
    for (int i = 0; i < kSums; ++i) x[i] = i % 2 == 0 ? hn::Add(x[i], o.x[i]) : AddOnMulPipe(x[i], o.x[i]);
  }
};

template <class Visit>
using TermsOf = decltype(std::declval<const Visit&>()(size_t{}));

// One running sum of visit(first), visit(first + step), ...: every 2^power additions it is closed into the next of four
// levels, which are added up at the end. Up to 16 additions that is a plain sum.
template <class Visit>
HWY_INLINE TermsOf<Visit> RunningSum(size_t count, size_t first, size_t step, const Visit& visit) {
  TermsOf<Visit> level[4];
  for (auto& l : level) l.Clear();
  const size_t quarter = count > 1 ? static_cast<size_t>(std::bit_width(count - 1)) / 4 : 0;
  const size_t power = quarter > 4 ? quarter : 4;
  const size_t round = size_t{1} << power;
  size_t i = 0;
  for (; i + round <= count;) {
    for (size_t j = 0; j < round; ++j, ++i) level[0].Add(visit(first + i * step));
    for (size_t j = 1; j < 4; ++j) {
      level[j].Add(level[j - 1]);
      level[j - 1].Clear();
      if ((i & ((round - 1) << (j * power))) != 0) break;
    }
  }
  for (; i < count; ++i) level[0].Add(visit(first + i * step));
  level[0].Add(level[1]);
  level[0].Add(level[2]);
  level[0].Add(level[3]);
  return level[0];
}

// The same for a count known to be small: no closing happens below 17 additions. The first term is not added to zero:
// that could only turn -0 into +0, which no total can show since totals start from +0.
template <size_t kCount, class Visit>
HWY_INLINE TermsOf<Visit> ShortSum(size_t first, size_t step, const Visit& visit) {
  static_assert(kCount >= 1 && kCount <= 16);
  TermsOf<Visit> sum = visit(first);
  for (size_t i = 1; i < kCount; ++i) sum.Add(visit(first + i * step));
  return sum;
}

// Groups of consecutive elements: 32 running sums (element k goes to sum k mod 32), joined 4 -> 8 lanes -> 1.
// kRounds > 0: the group has exactly 32 * kRounds elements.
template <size_t kRounds, class Visit>
HWY_INLINE TermsOf<Visit> SumConsecutive(size_t elems, const Visit& visit) {
  TermsOf<Visit> total;
  total.Clear();
  if constexpr (kRounds > 0) {
    for (size_t l = 0; l < 8; ++l) {
      TermsOf<Visit> lane = ShortSum<kRounds>(l, 32, visit);
      for (size_t c = 1; c < 4; ++c) lane.Add(ShortSum<kRounds>(8 * c + l, 32, visit));
      total.Add(lane);
    }
  } else {
    const size_t vectors = elems / 8;
    const size_t rounds = vectors / 4;
    for (size_t k = vectors * 8; k < elems; ++k) total.Add(visit(k));
    for (size_t l = 0; l < 8 && vectors > 0; ++l) {
      TermsOf<Visit> lane = RunningSum(rounds, l, 32, visit);
      for (size_t i = rounds * 4; i < vectors; ++i) lane.Add(visit(8 * i + l));
      for (size_t c = 1; c < 4; ++c) lane.Add(RunningSum(rounds, 8 * c + l, 32, visit));
      total.Add(lane);
    }
  }
  return total;
}

enum class Order { kStrided, kConsecutive, kConsecutive32, kConsecutive64, kConsecutive128 };

HWY_INLINE Order OrderOf(const GroupBlock& block) {
  if (block.element_stride != 1) return Order::kStrided;
  switch (block.group_elems) {
    case 32:
      return Order::kConsecutive32;
    case 64:
      return Order::kConsecutive64;
    case 128:
      return Order::kConsecutive128;
    default:
      return Order::kConsecutive;
  }
}

template <class Visit>
HWY_INLINE TermsOf<Visit> SumGroup(Order order, size_t elems, const Visit& visit) {
  switch (order) {
    case Order::kStrided:
      return RunningSum(elems, 0, 1, visit);
    case Order::kConsecutive32:
      return SumConsecutive<1>(elems, visit);
    case Order::kConsecutive64:
      return SumConsecutive<2>(elems, visit);
    case Order::kConsecutive128:
      return SumConsecutive<4>(elems, visit);
    case Order::kConsecutive:
      break;
  }
  return SumConsecutive<0>(elems, visit);
}

// Adds fp32 group sums exactly, N at a time: as doubles inside a window of magnitudes where no bit can be lost, flushed
// into the ExactSum before it could fill up. What falls outside the window goes to the ExactSum one by one.
class ExactLanes {
 public:
  // Room for `slots` slots is reserved in `scratch`.
  ExactLanes(const simd::Scratch& scratch, size_t slots) : scratch_(scratch) {
    for (size_t i = 0; i < slots * kLanes; ++i) scratch_.sums[i] = 0.0;
    for (size_t slot = 0; slot < slots; ++slot) scratch_.high[slot] = -1.0F;
  }

  // @pre values >= 0; lanes beyond `count` are ignored. One call a slot for each CountVector().
  HWY_INLINE void Add(size_t slot, VF values, size_t count, ExactSum& sum) {
    if (HWY_UNLIKELY(count < kLanes)) values = hn::IfThenElseZero(hn::FirstN(kDF, count), values);
    if (HWY_UNLIKELY(scratch_.high[slot] < 0.0F)) ChooseWindow(slot, values);
    const MF inside =
        hn::And(hn::Ge(values, hn::Set(kDF, scratch_.low[slot])), hn::Lt(values, hn::Set(kDF, scratch_.high[slot])));
    if (HWY_UNLIKELY(!hn::AllTrue(kDF, inside))) return AddEach(values, sum);
    const DF64 d;
    double* HWY_RESTRICT p = scratch_.sums + slot * kLanes;
    const auto lower = hn::PromoteTo(d, hn::LowerHalf(DHalf(), values));
    const auto upper = hn::PromoteTo(d, hn::UpperHalf(DHalf(), values));
    hn::StoreU(hn::Add(hn::LoadU(d, p), lower), d, p);
    hn::StoreU(hn::Add(hn::LoadU(d, p + kLanes / 2), upper), d, p + kLanes / 2);
  }

  // True when every slot must be flushed before the next two vectors of groups.
  HWY_INLINE bool CountVector() {
    used_ += kLanes;
    return used_ + 2 * kLanes > kMostValues;
  }

  void Flush(size_t slot, ExactSum& sum) {
    double total = 0;  // exact: at most kMostValues values of 24 bits within 2^kSpan of each other
    for (size_t i = slot * kLanes; i < (slot + 1) * kLanes; ++i) {
      total += scratch_.sums[i];
      scratch_.sums[i] = 0.0;
    }
    if (total > 0) sum.add(total);
  }
  void EndFlush() { used_ = 0; }

 private:
  static constexpr int kSpan = 14;                        // the window reaches from 2^a to 2^(a + kSpan)
  static constexpr size_t kMostValues = size_t{1} << 15;  // 24 + 14 + 15 = 53 bits

  void ChooseWindow(size_t slot, VF values) {
    const float largest = hn::GetLane(hn::MaxOfLanes(kDF, values));
    if (!(largest > 0x1p-90F) || largest > 0x1p100F) return;  // no window: values go one by one
    const int exponent = std::ilogb(largest);
    scratch_.low[slot] = std::ldexp(1.0F, exponent - kSpan / 2);
    scratch_.high[slot] = std::ldexp(1.0F, exponent + kSpan / 2);
  }

  static HWY_NOINLINE void AddEach(VF values, ExactSum& sum) {
    HWY_ALIGN float each[kLanes];
    hn::Store(values, kDF, each);
    for (const float value : each) {
      if (value != 0) sum.add(finite_or_max(value));
    }
  }

  const simd::Scratch& scratch_;
  size_t used_ = 0;
};

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();
#endif

#endif
