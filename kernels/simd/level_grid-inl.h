// Scales and codes of grids with levels, for FloatSearch.
#if defined(HALFQUAD_KERNELS_SIMD_LEVEL_GRID_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HALFQUAD_KERNELS_SIMD_LEVEL_GRID_INL_H_
#undef HALFQUAD_KERNELS_SIMD_LEVEL_GRID_INL_H_
#else
#define HALFQUAD_KERNELS_SIMD_LEVEL_GRID_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <limits>

#include <hwy/highway.h>

#include "kernels/als_search.h"
#include "kernels/float_grid.h"
#include "kernels/simd/float_grid-inl.h"

HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

/// At most kLevels levels. Behind the last one there is a middle that nothing is above.
template <size_t kLevels>
class LevelScales {
 public:
  explicit LevelScales(const FloatGroups& groups) : of_(groups.of_levels), unit_(level_unit(groups.grid)) {
    const auto count = static_cast<size_t>(level_count(groups.grid));
    for (size_t i = 0; i < kLevels; ++i) {
      hn::Store(hn::Set(kD, (*of_.levels)[i]), kD, level_ + i * kFloatLanes);
      const float middle = i + 1 < count ? level_middle(*of_.levels, i) : std::numeric_limits<float>::infinity();
      hn::Store(hn::Set(kD, middle), kD, middle_ + i * kFloatLanes);
    }
  }

  static float Held(float w) { return w; }
  void SetLargest(size_t lane, float largest) { largest_[lane] = largest; }

  HWY_INLINE LaneScales Largest() const { return Result(Stored(First())); }

  template <bool kWeighted>
  HWY_INLINE LaneScales Search(const GroupLanes& lanes) const {
    const FloatV first = First();
    FloatV best = Stored(first);
    FloatV least = hn::Set(kD, std::numeric_limits<float>::infinity());
    for (int start = 0; start < of_.starts; ++start) {
      FloatV scale = Stored(hn::Mul(first, hn::Set(kD, AlsSearch::part(start, of_.starts))));
      for (int round = 0; round <= of_.rounds; ++round) {
        const Look look = LookAt<kWeighted>(lanes, scale);
        const auto better = hn::Lt(look.score, least);
        least = hn::IfThenElse(better, look.score, least);
        best = hn::IfThenElse(better, scale, best);
        const FloatV next = Fitted(look, scale);
        if (hn::AllTrue(kD, hn::Eq(next, scale))) break;
        scale = next;
      }
    }
    return Result(best);
  }

  HWY_INLINE FloatVI Numbers(FloatV w, FloatV inverse) const {
    const FloatV x = hn::Mul(w, inverse);
    const FloatV one = hn::Set(kD, 1.0F);
    FloatV number = hn::Zero(kD);
    for (size_t i = 0; i + 1 < kLevels; ++i) {
      number = hn::Add(number, hn::IfThenElseZero(hn::Gt(x, Middle(i)), one));
    }
    return hn::ConvertTo(kDI, number);
  }
  static std::uint8_t CodeOf(std::int32_t number, float /*w*/) { return static_cast<std::uint8_t>(number); }

 private:
  static constexpr FloatD kD{};
  static constexpr FloatDI kDI{};

  struct Look {
    FloatV score, a, b;
  };

  HWY_INLINE FloatV Middle(size_t i) const { return hn::Load(kD, middle_ + i * kFloatLanes); }
  HWY_INLINE FloatV First() const { return hn::Div(hn::Load(kD, largest_), hn::Set(kD, unit_)); }

  HWY_INLINE FloatV Nearest(FloatV x) const {
    FloatV level = hn::Load(kD, level_);
    for (size_t i = 0; i + 1 < kLevels; ++i) {
      level = hn::IfThenElse(hn::Gt(x, Middle(i)), hn::Load(kD, level_ + (i + 1) * kFloatLanes), level);
    }
    return level;
  }

  template <bool kWeighted>
  HWY_INLINE Look LookAt(const GroupLanes& lanes, FloatV scale) const {
    const FloatV inverse = hn::Div(hn::Set(kD, 1.0F), scale);
    Look look{hn::Zero(kD), hn::Zero(kD), hn::Zero(kD)};
    for (size_t k = 0; k < lanes.elems; ++k) {
      const FloatV w = hn::Load(kD, lanes.w + k * kFloatLanes);
      const FloatV level = Nearest(hn::Mul(w, inverse));
      const FloatV e = hn::Sub(w, hn::Mul(level, scale));
      FloatV he = e, hl = level;
      if (kWeighted) {
        const FloatV h = hn::Load(kD, lanes.h + k * kFloatLanes);
        he = hn::Mul(h, e);
        hl = hn::Mul(h, level);
      }
      look.score = hn::Add(look.score, hn::Mul(he, e));
      look.a = hn::Add(look.a, hn::Mul(hl, w));
      look.b = hn::Add(look.b, hn::Mul(hl, level));
    }
    return look;
  }

  // The next scale to look at; `scale` itself in lanes whose start ends.
  HWY_INLINE FloatV Fitted(const Look& look, FloatV scale) const {
    const FloatV fitted = hn::Div(look.a, look.b);
    const auto positive = hn::And(hn::Gt(look.a, hn::Zero(kD)), hn::Gt(look.b, hn::Zero(kD)));
    const auto finite = hn::Le(fitted, hn::Set(kD, std::numeric_limits<float>::max()));
    return hn::IfThenElse(hn::And(positive, finite), Stored(fitted), scale);
  }

  // stored_level_scale() of numbers >= 0.
  HWY_INLINE FloatV Stored(FloatV scale) const {
    FloatV rounded = scale;
    if (of_.stored == DType::kF16) rounded = RoundedToF16(scale);
    if (of_.stored == DType::kBF16) rounded = RoundedToBF16(scale);
    return hn::Max(rounded, hn::Set(kD, 0x1p-24F));
  }

  // A number so much larger is added and taken away that its last place is F16's of `scale`.
  static HWY_INLINE FloatV RoundedToF16(FloatV scale) {
    const FloatV s = hn::Min(scale, hn::Set(kD, 0x1p17F));  // which is infinite, as all above are
    const FloatVI exponent = hn::And(hn::BitCast(kDI, s), hn::Set(kDI, 0x7F80'0000));
    const FloatVI least = hn::Set(kDI, (127 - 14) << 23);
    const FloatV large = hn::BitCast(kD, hn::Add(hn::Max(exponent, least), hn::Set(kDI, 13 << 23)));
    const FloatV rounded = hn::Sub(hn::Add(s, large), large);
    const FloatV infinity = hn::Set(kD, std::numeric_limits<float>::infinity());
    return hn::IfThenElse(hn::Gt(rounded, hn::Set(kD, 65504.0F)), infinity, rounded);
  }

  static HWY_INLINE FloatV RoundedToBF16(FloatV scale) {
    const FloatVI bits = hn::BitCast(kDI, scale);
    const FloatVI odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(kDI, 1));
    const FloatVI rounded = hn::Add(bits, hn::Add(odd, hn::Set(kDI, 0x7FFF)));
    return hn::BitCast(kD, hn::AndNot(hn::Set(kDI, 0xFFFF), rounded));
  }

  HWY_INLINE LaneScales Result(FloatV scale) const {
    const auto zeros = hn::Eq(hn::Load(kD, largest_), hn::Zero(kD));
    return {hn::IfThenElse(zeros, hn::Zero(kD), scale), hn::Div(hn::Set(kD, 1.0F), scale)};
  }

  LevelGroups of_;
  float unit_;
  HWY_ALIGN float level_[kLevels * kFloatLanes];
  HWY_ALIGN float middle_[kLevels * kFloatLanes];
  HWY_ALIGN float largest_[kFloatLanes];
};

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();

#endif
