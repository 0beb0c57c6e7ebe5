// The search for scale and whole zero of N groups at a time.
#if defined(HALFQUAD_KERNELS_SIMD_INTEGER_ZERO_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HALFQUAD_KERNELS_SIMD_INTEGER_ZERO_INL_H_
#undef HALFQUAD_KERNELS_SIMD_INTEGER_ZERO_INL_H_
#else
#define HALFQUAD_KERNELS_SIMD_INTEGER_ZERO_INL_H_
#endif

#include "kernels/integer_zero.h"
#include "kernels/simd/lanes-inl.h"

#if HWY_TARGET != HWY_SCALAR  // one lane at a time is the reference solver
HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {

// A 32-bit lane holds two elements of its group as 16-bit integers, or one value twice.
using DI16 = hn::Repartition<int16_t, DF>;
using VI = hn::Vec<DI>;
using VI16 = hn::Vec<DI16>;
using VF64 = hn::Vec<DF64>;

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

// A scale and a zero of N groups.
struct WholeGrid {
  VF s, z;
};

// N doubles.
struct Wide {
  VF64 lower, upper;
};

HWY_INLINE Wide Widen(VI v) {
  const hn::Half<DI> half;
  return {hn::PromoteTo(DF64(), hn::LowerHalf(half, v)), hn::PromoteTo(DF64(), hn::UpperHalf(half, v))};
}
HWY_INLINE Wide Widen(VF v) {
  return {hn::PromoteTo(DF64(), hn::LowerHalf(DHalf(), v)), hn::PromoteTo(DF64(), hn::UpperHalf(DHalf(), v))};
}
HWY_INLINE Wide AddWide(const Wide& a, const Wide& b) { return {hn::Add(a.lower, b.lower), hn::Add(a.upper, b.upper)}; }
HWY_INLINE VF Narrow(const Wide& w) {
  return hn::Combine(kDF, hn::DemoteTo(DHalf(), w.upper), hn::DemoteTo(DHalf(), w.lower));
}

HWY_INLINE VI16 Twice(VI v) {
  return hn::BitCast(DI16(), hn::Or(hn::And(v, hn::Set(DI(), 0xFFFF)), hn::ShiftLeft<16>(v)));
}

// sum + the products of both halves of each lane.
struct Products {
  static HWY_INLINE VI Add(VI16 a, VI16 b, VI sum) {
#if HWY_ARCH_X86
    VI unused = hn::Zero(DI());
    return hn::ReorderWidenMulAccumulate(DI(), a, b, sum, unused);
#else  // there the instruction mixes lanes
    const VI first_a = hn::BitCast(DI(), a), first_b = hn::BitCast(DI(), b);
    const auto low = [](VI v) HWY_ATTR { return hn::ShiftRight<16>(hn::ShiftLeft<16>(v)); };
    const VI products = hn::Mul(low(first_a), low(first_b));
    return hn::Add(sum, hn::Add(products, hn::Mul(hn::ShiftRight<16>(first_a), hn::ShiftRight<16>(first_b))));
#endif
  }
};

// The same by the one instruction that CPUs with AVX-512 have since Cascade Lake and Zen 4. Highway's own target for
// them is passed by: its 1.0.3 stores wrong bytes.
#if HWY_TARGET == HWY_AVX3
struct FusedProducts {
  static HWY_INLINE VI Add(VI16 a, VI16 b, VI sum) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));
    return sum;
  }
};
inline bool HasFusedProducts() { return __builtin_cpu_supports("avx512vnni") != 0; }
#else
using FusedProducts = Products;
inline bool HasFusedProducts() { return false; }
#endif

// The weights of N groups as whole numbers, two elements a lane.
struct WholeWeights {
  const int16_t* x;
  size_t pairs;
  Wide square_sum;
  VI16 to_steps;  // what moves the fraction of a product out
  VF one;         // the multiplier that stands for a scale of 1
  VI largest_code;
};

// What is known of a candidate: the squared error that the best scale leaves, and the inverse of that scale.
struct Scored {
  VF error, inverse_fit;
};

HWY_INLINE Scored ScoreOf(const Wide& square_sum, const Wide& products, const Wide& squares, VF a, VF b) {
  const Wide d = {hn::Sub(hn::Mul(square_sum.lower, squares.lower), hn::Mul(products.lower, products.lower)),
                  hn::Sub(hn::Mul(square_sum.upper, squares.upper), hn::Mul(products.upper, products.upper))};
  const VF inverse = hn::Div(hn::Set(kDF, 1.0F), hn::Mul(a, b));
  const VF error = hn::Mul(hn::Max(Narrow(d), hn::Zero(kDF)), hn::Mul(a, inverse));
  const VF none = hn::Set(kDF, std::numeric_limits<float>::infinity());
  return {hn::IfThenElse(hn::Gt(b, hn::Zero(kDF)), error, none), hn::Mul(hn::Mul(b, b), inverse)};
}

constexpr size_t kTogether = 3;

// Candidates side by side: one pass over the weights serves them all.
template <size_t kCount>
struct Tried {
  VI multiplier[kCount], zero[kCount];
};

template <class Sum, size_t kCount>
HWY_INLINE void Score(const WholeWeights& whole, const Tried<kCount>& tried, Scored* out) {
  constexpr size_t kChunk = IntegerZeroSearch::kChunk / 2;
  VI16 multiplier[kCount], low[kCount], high[kCount];
  for (size_t c = 0; c < kCount; ++c) {
    multiplier[c] = Twice(tried.multiplier[c]);
    low[c] = Twice(hn::Neg(tried.zero[c]));
    high[c] = Twice(hn::Sub(whole.largest_code, tried.zero[c]));
  }
  Wide products[kCount], squares[kCount];
  VI a[kCount], b[kCount];
  for (size_t begin = 0; begin < whole.pairs; begin += kChunk) {
    const size_t end = whole.pairs - begin < kChunk ? whole.pairs : begin + kChunk;
    for (size_t c = 0; c < kCount; ++c) a[c] = b[c] = hn::Zero(DI());
    for (size_t j = begin; j < end; ++j) {
      const VI16 x = hn::Load(DI16(), whole.x + j * 2 * kLanes);
      for (size_t c = 0; c < kCount; ++c) {
        const VI16 steps = hn::MulFixedPoint15(hn::MulFixedPoint15(x, multiplier[c]), whole.to_steps);
        const VI16 d = hn::Min(hn::Max(steps, low[c]), high[c]);
        a[c] = Sum::Add(x, d, a[c]);
        b[c] = Sum::Add(d, d, b[c]);
      }
    }
    for (size_t c = 0; c < kCount; ++c) {
      products[c] = begin == 0 ? Widen(a[c]) : AddWide(products[c], Widen(a[c]));
      squares[c] = begin == 0 ? Widen(b[c]) : AddWide(squares[c], Widen(b[c]));
    }
  }
  for (size_t c = 0; c < kCount; ++c) {
    const bool chunks = whole.pairs > kChunk;  // else the whole numbers are still at hand, which round the same
    const VF sum = chunks ? Narrow(products[c]) : hn::ConvertTo(kDF, a[c]);
    const VF squares_sum = chunks ? Narrow(squares[c]) : hn::ConvertTo(kDF, b[c]);
    out[c] = ScoreOf(whole.square_sum, products[c], squares[c], sum, squares_sum);
  }
}

// Rounds the weights of N groups to whole numbers at `x`.
HWY_INLINE WholeWeights RoundWeights(const float* HWY_RESTRICT w, size_t elems, VF to_whole,
                                     const IntegerZeroSearch& search, int16_t* HWY_RESTRICT x) {
  const DI di;
  const int fraction_bits = search.fraction_bits();
  WholeWeights whole{x,
                     (elems + 1) / 2,
                     {hn::Zero(DF64()), hn::Zero(DF64())},
                     hn::Set(DI16(), static_cast<int16_t>(1 << (15 - fraction_bits))),
                     hn::Set(kDF, static_cast<float>(1 << (15 + fraction_bits))),
                     hn::Set(di, search.largest_code())};
  constexpr size_t kChunk = IntegerZeroSearch::kChunk / 2;
  for (size_t begin = 0; begin < whole.pairs; begin += kChunk) {
    const size_t end = whole.pairs - begin < kChunk ? whole.pairs : begin + kChunk;
    VI low = hn::Zero(di), high = low;  // a sum of squares of the chunk and 2^16 times another
    for (size_t j = begin; j < end; ++j) {
      const VI first = hn::NearestInt(hn::Mul(hn::Load(kDF, w + 2 * j * kLanes), to_whole));
      VI second = hn::Zero(di);
      if (HWY_LIKELY(2 * j + 1 < elems)) {
        second = hn::NearestInt(hn::Mul(hn::Load(kDF, w + (2 * j + 1) * kLanes), to_whole));
      }
      const VI16 both = hn::BitCast(DI16(), hn::Or(hn::And(first, hn::Set(di, 0xFFFF)), hn::ShiftLeft<16>(second)));
      hn::Store(both, DI16(), x + 2 * j * kLanes);
      const VI squares = Products::Add(both, both, hn::Zero(di));
      low = hn::Add(low, hn::And(squares, hn::Set(di, 0xFFFF)));
      high = hn::Add(high, hn::ShiftRight<16>(squares));
    }
    const Wide wide_low = Widen(low), wide_high = Widen(high);
    const VF64 unit = hn::Set(DF64(), 65536.0);
    const Wide sum = {hn::Add(hn::Mul(wide_high.lower, unit), wide_low.lower),
                      hn::Add(hn::Mul(wide_high.upper, unit), wide_low.upper)};
    whole.square_sum = AddWide(whole.square_sum, sum);
  }
  return whole;
}

// A candidate that goes on: an infinite error in lanes that have none.
struct Slot {
  VF error, inverse_fit;
  VI zero;
};

// The candidates of the first round, the best of them first.
class StartList {
 public:
  HWY_INLINE explicit StartList(int kept) : kept_(kept) {
    for (VI& key : keys_) key = hn::BitCast(DI(), hn::Set(kDF, std::numeric_limits<float>::infinity()));
  }

  HWY_INLINE void Add(int index, const Scored& scored, VI zero, VI largest_code) {
    const DI di;
    const auto valid = hn::Eq(hn::Min(hn::Max(zero, hn::Zero(di)), largest_code), zero);
    VI key = hn::Or(hn::AndNot(IndexBits(), hn::BitCast(di, scored.error)), hn::Set(di, index));
    key = hn::IfThenElse(valid, key, hn::BitCast(di, hn::Set(kDF, std::numeric_limits<float>::infinity())));
    hn::Store(scored.inverse_fit, kDF, inverse_fits_ + static_cast<size_t>(index) * kLanes);
    hn::Store(zero, di, zeros_ + static_cast<size_t>(index) * kLanes);
    if (count_ < kept_) ++count_;  // the others are still infinite
    for (int i = 0; i < count_; ++i) {
      const VI larger = hn::Max(keys_[i], key);
      keys_[i] = hn::Min(keys_[i], key);
      key = larger;
    }
  }

  HWY_INLINE void Take(Slot* slots) const {
    const DI di;
    for (int i = 0; i < kept_; ++i) {
      const VI from = hn::Mul(hn::And(keys_[i], IndexBits()), hn::Set(di, static_cast<int>(kLanes)));
      const VI at = hn::Add(from, hn::Iota(di, 0));
      slots[i].error = hn::BitCast(kDF, hn::AndNot(IndexBits(), keys_[i]));
      slots[i].inverse_fit = hn::GatherIndex(kDF, inverse_fits_, at);
      slots[i].zero = hn::GatherIndex(di, zeros_, at);
    }
  }

 private:
  static HWY_INLINE VI IndexBits() { return hn::Set(DI(), IntegerZeroSearch::kTried - 1); }

  HWY_ALIGN float inverse_fits_[IntegerZeroSearch::kTried * kLanes];
  HWY_ALIGN int32_t zeros_[IntegerZeroSearch::kTried * kLanes];
  VI keys_[IntegerZeroSearch::kMostKept];
  int kept_, count_ = 0;
};

// Candidates of the first round that wait to be looked at side by side.
struct WaitingStarts {
  Tried<kTogether> tried;
  int index[kTogether];
  size_t count = 0;
};

template <class Sum, size_t kCount>
HWY_INLINE void ScoreWaiting(const WholeWeights& whole, WaitingStarts& waiting, StartList& list) {
  Tried<kCount> tried;
  for (size_t c = 0; c < kCount; ++c) {
    tried.multiplier[c] = waiting.tried.multiplier[c];
    tried.zero[c] = waiting.tried.zero[c];
  }
  Scored scored[kCount];
  Score<Sum>(whole, tried, scored);
  for (size_t c = 0; c < kCount; ++c) list.Add(waiting.index[c], scored[c], tried.zero[c], whole.largest_code);
  waiting.count = 0;
}

template <class Sum>
HWY_INLINE void TryStarts(const WholeWeights& whole, const Span& span, const IntegerZeroSearch& search, Slot* slots) {
  using Search = IntegerZeroSearch;
  const DI di;
  const VF largest = hn::Set(kDF, static_cast<float>(search.largest_code()));
  StartList list(search.kept(0));
  WaitingStarts waiting;
  for (int part = 0; part < Search::kStarts; ++part) {
    if (search.zeros(part) == 0) continue;
    const VI multiplier = hn::Set(di, search.multiplier(part));
    const VF covered = hn::Mul(span.length, hn::Set(kDF, search.part(part)));
    const VF from_middle = hn::Sub(hn::Mul(hn::Set(kDF, 0.5F), covered), span.middle);
    VI rounded = hn::NearestInt(hn::Div(from_middle, hn::Div(covered, largest)));
    if (search.symmetric()) rounded = hn::Set(di, search.fixed_zero());
    if (search.zeros(part) == 1) {
      waiting.tried.multiplier[waiting.count] = multiplier;
      waiting.tried.zero[waiting.count] = rounded;
      waiting.index[waiting.count++] = 3 * part + 1;
      if (waiting.count == kTogether) ScoreWaiting<Sum, kTogether>(whole, waiting, list);
      continue;
    }
    const VI one = hn::Set(di, 1);
    const Tried<3> tried = {{multiplier, multiplier, multiplier},
                            {hn::Sub(rounded, one), rounded, hn::Add(rounded, one)}};
    Scored scored[3];
    Score<Sum>(whole, tried, scored);
    for (int i = 0; i < 3; ++i) list.Add(3 * part + i, scored[i], tried.zero[i], whole.largest_code);
  }
  if (waiting.count == 2) ScoreWaiting<Sum, 2>(whole, waiting, list);
  if (waiting.count == 1) ScoreWaiting<Sum, 1>(whole, waiting, list);
  list.Take(slots);
}

// Moves the worst of `count` slots to the end, of equal ones the last. In lanes where the last is none it goes as it
// is: fewer need no such pass, which would change the places of others, too, and so what comes first of equal ones.
HWY_INLINE void MoveWorstBack(Slot* slots, int count) {
  const MF full = hn::Lt(slots[count - 1].error, hn::Set(kDF, std::numeric_limits<float>::infinity()));
  Slot worst = slots[0];
  for (int i = 1; i < count; ++i) {
    const Slot next = slots[i];
    const MF swap = hn::And(full, hn::Lt(next.error, worst.error));
    const auto swap_zero = hn::RebindMask(DI(), swap);
    slots[i - 1] = {hn::IfThenElse(swap, next.error, worst.error),
                    hn::IfThenElse(swap, next.inverse_fit, worst.inverse_fit),
                    hn::IfThenElse(swap_zero, next.zero, worst.zero)};
    worst = {hn::IfThenElse(swap, worst.error, next.error), hn::IfThenElse(swap, worst.inverse_fit, next.inverse_fit),
             hn::IfThenElse(swap_zero, worst.zero, next.zero)};
  }
  slots[count - 1] = worst;
}

// Codes from the scale that fits each of some slots best; takes them over where that is better.
template <class Sum, size_t kCount>
HWY_INLINE void Refine(const WholeWeights& whole, Slot* slots) {
  const VF most = hn::Set(kDF, static_cast<float>(IntegerZeroSearch::kLargest));
  const VF infinity = hn::Set(kDF, std::numeric_limits<float>::infinity());
  Tried<kCount> tried;
  for (size_t c = 0; c < kCount; ++c) {
    tried.multiplier[c] = hn::NearestInt(hn::Min(hn::Mul(slots[c].inverse_fit, whole.one), most));
    tried.zero[c] = slots[c].zero;
  }
  Scored again[kCount];
  Score<Sum>(whole, tried, again);
  for (size_t c = 0; c < kCount; ++c) {
    const MF better = hn::And(hn::Lt(slots[c].error, infinity), hn::Lt(again[c].error, slots[c].error));
    slots[c].error = hn::IfThenElse(better, again[c].error, slots[c].error);
    slots[c].inverse_fit = hn::IfThenElse(better, again[c].inverse_fit, slots[c].inverse_fit);
  }
}

template <class Sum>
HWY_INLINE void RefineAll(const WholeWeights& whole, Slot* slots, int count) {
  int i = 0;
  for (; count - i > 4 || count - i == 3; i += 3) Refine<Sum, 3>(whole, slots + i);
  for (; count - i >= 2; i += 2) Refine<Sum, 2>(whole, slots + i);
  if (i < count) Refine<Sum, 1>(whole, slots + i);  // one alone would wait for its sums
}

// Whether one grid's squared errors are less than another's, in each of N groups.
HWY_INLINE MF IsBetter(const float* HWY_RESTRICT w, size_t elems, VF largest_code, const WholeGrid& grid,
                       const WholeGrid& than) {
  const VF zero = hn::Zero(kDF), one = hn::Set(kDF, 1.0F), rounding = hn::Set(kDF, IntegerZeroSearch::kRounding);
  const VF most = hn::Add(largest_code, rounding);
  const VF s[2] = {grid.s, than.s};
  const VF S[2] = {hn::Div(one, grid.s), hn::Div(one, than.s)};
  const VF z[2] = {hn::Add(grid.z, rounding), hn::Add(than.z, rounding)};
  Wide sums[2] = {Widen(zero), Widen(zero)};
  for (size_t begin = 0; begin < elems; begin += IntegerZeroSearch::kChunk) {
    const size_t end = elems - begin < IntegerZeroSearch::kChunk ? elems : begin + IntegerZeroSearch::kChunk;
    VF chunk[2] = {zero, zero};
    for (size_t k = begin; k < end; ++k) {
      const VF weight = hn::Load(kDF, w + k * kLanes);
      for (size_t i = 0; i < 2; ++i) {
        const VF q = hn::Min(hn::Max(hn::Add(hn::Mul(weight, S[i]), z[i]), rounding), most);
        const VF e = hn::Sub(weight, hn::Mul(SubOnMulPipe(q, z[i]), s[i]));
        chunk[i] = hn::Add(chunk[i], hn::Mul(e, e));
      }
    }
    for (size_t i = 0; i < 2; ++i) sums[i] = AddWide(sums[i], Widen(chunk[i]));
  }
  const VF64 yes = hn::Set(DF64(), 1.0);
  return hn::Gt(Narrow({hn::IfThenElseZero(hn::Lt(sums[0].lower, sums[1].lower), yes),
                        hn::IfThenElseZero(hn::Lt(sums[0].upper, sums[1].upper), yes)}),
                zero);
}

// Scale and zero of N groups whose weights lie at `w`, a vector an element. `x`: room for as many 16-bit integers.
template <class Sum>
HWY_NOINLINE WholeGrid SearchIntegerZero(const float* w, size_t elems, const Span& span,
                                         const IntegerZeroSearch& search, int16_t* x) {
  const VF zero = hn::Zero(kDF), one = hn::Set(kDF, 1.0F);
  const VF largest_code = hn::Set(kDF, static_cast<float>(search.largest_code()));
  const VF fixed = hn::Set(kDF, static_cast<float>(search.fixed_zero()));
  const MF wide = hn::Gt(span.length, hn::Set(kDF, IntegerZeroSearch::kNarrowest));
  const VF length = hn::IfThenElse(wide, span.length, one);

  WholeGrid nearest{hn::Div(length, largest_code), fixed};
  if (!search.symmetric()) {
    const VF from_middle = hn::Sub(hn::Mul(hn::Set(kDF, 0.5F), length), span.middle);
    const VF rounded = hn::Min(hn::Max(hn::Round(hn::Div(from_middle, nearest.s)), zero), largest_code);
    nearest.z = hn::IfThenElse(wide, rounded, fixed);
  }
  nearest.s = hn::IfThenElse(wide, nearest.s, one);
  if (!search.searches()) return nearest;

  const VF largest = hn::Set(kDF, static_cast<float>(IntegerZeroSearch::kLargest));
  const WholeWeights whole = RoundWeights(w, elems, hn::Div(largest, length), search, x);
  Slot slots[IntegerZeroSearch::kMostKept];
  TryStarts<Sum>(whole, {length, span.middle}, search, slots);
  int count = search.kept(0);
  for (int round = 0; round < search.rounds(); ++round) {
    for (; count > search.kept(round); --count) MoveWorstBack(slots, count);
    RefineAll<Sum>(whole, slots, count);
  }
  for (; count > 1; --count) MoveWorstBack(slots, count);

  const MF found = hn::And(wide, hn::Lt(slots[0].error, hn::Set(kDF, std::numeric_limits<float>::infinity())));
  const VF best_s = hn::Div(hn::Div(length, largest), slots[0].inverse_fit);
  const WholeGrid best{hn::IfThenElse(found, best_s, one), hn::ConvertTo(kDF, slots[0].zero)};
  const MF better = hn::And(found, IsBetter(w, elems, largest_code, best, nearest));
  return {hn::IfThenElse(better, best.s, nearest.s), hn::IfThenElse(better, best.z, nearest.z)};
}

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();
#endif

#endif
