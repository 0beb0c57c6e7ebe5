// The search for scales and codes: one SIMD lane is one group, in the order of the reference. Grids with levels are in
// level_grid-inl.h.
#if defined(HALFQUAD_KERNELS_SIMD_FLOAT_GRID_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HALFQUAD_KERNELS_SIMD_FLOAT_GRID_INL_H_
#undef HALFQUAD_KERNELS_SIMD_FLOAT_GRID_INL_H_
#else
#define HALFQUAD_KERNELS_SIMD_FLOAT_GRID_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include <hwy/highway.h>

#include "kernels/float_grid.h"
#include "kernels/simd/scratch.h"

HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kFloatLanes = HWY_LANES(float);
using FloatD = hn::CappedTag<float, kFloatLanes>;
using FloatDI = hn::RebindToSigned<FloatD>;
using FloatV = hn::Vec<FloatD>;
using FloatVI = hn::Vec<FloatDI>;

/// One group in each lane.
struct GroupLanes {
  const float* w = nullptr;  ///< Element k of all groups at k * kFloatLanes, as the grid holds it.
  const float* h = nullptr;
  size_t elems = 0;
};
struct LaneScales {
  FloatV scale, inverse;
};

/// E2M1 with the scales that a byte can hold.
class ByteScales {
 public:
  explicit ByteScales(const FloatGroups& groups) : scales_(groups.grid, groups.tensor_scale) {}

  static float Held(float w) { return std::abs(w); }
  void SetLargest(size_t lane, float largest) { first_[lane] = scales_.first_byte(largest); }

  template <bool kWeighted>
  HWY_INLINE LaneScales Search(const GroupLanes& lanes) const {
    const FloatVI first = hn::Load(kDI, first_);
    const FloatVI lowest = hn::Set(kDI, scales_.lowest), highest = hn::Set(kDI, scales_.highest);
    FloatVI best = first;
    FloatV least = Objective<kWeighted>(lanes, first);
    for (const int offset : scales_.offsets.subspan(1)) {
      const FloatVI byte = hn::Min(hn::Max(hn::Add(first, hn::Set(kDI, offset)), lowest), highest);
      const FloatV found = Objective<kWeighted>(lanes, byte);
      const auto better = hn::Lt(found, least);
      least = hn::IfThenElse(better, found, least);
      best = hn::IfThenElse(hn::RebindMask(kDI, better), byte, best);
    }
    return Of(best);
  }
  HWY_INLINE LaneScales Largest() const { return Of(hn::Load(kDI, first_)); }

  static HWY_INLINE FloatVI Numbers(FloatV magnitude, FloatV inverse_scale) {
    return hn::ConvertTo(kDI, Steps(magnitude, inverse_scale));
  }
  static std::uint8_t CodeOf(std::int32_t steps, float w) {
    return static_cast<std::uint8_t>(kFloatCodeZero + (std::signbit(w) ? -steps : steps));
  }

 private:
  static constexpr FloatD kD{};
  static constexpr FloatDI kDI{};

  static HWY_INLINE FloatV Steps(FloatV magnitude, FloatV inverse_scale) {
    const FloatV x = hn::Mul(magnitude, inverse_scale);
    const FloatV one = hn::Set(kD, 1.0F);
    const auto below4 = hn::Lt(x, hn::Set(kD, 4.0F));
    const auto below8 = hn::Lt(x, hn::Set(kD, 8.0F));
    const FloatV unit = hn::IfThenElse(below4, one, hn::IfThenElse(below8, hn::Set(kD, 2.0F), hn::Set(kD, 4.0F)));
    const FloatV inverse = hn::IfThenElse(below4, one, hn::IfThenElse(below8, hn::Set(kD, 0.5F), hn::Set(kD, 0.25F)));
    return hn::Min(hn::Set(kD, 12.0F), hn::Mul(hn::Round(hn::Mul(x, inverse)), unit));
  }

  HWY_INLINE LaneScales Of(FloatVI bytes) const {
    return {hn::GatherIndex(kD, scales_.scale.data(), bytes), hn::GatherIndex(kD, scales_.inverse.data(), bytes)};
  }

  template <bool kWeighted>
  HWY_INLINE FloatV Objective(const GroupLanes& lanes, FloatVI byte) const {
    const LaneScales at = Of(byte);
    FloatV sum = hn::Zero(kD);
    for (size_t k = 0; k < lanes.elems; ++k) {
      const FloatV w = hn::Load(kD, lanes.w + k * kFloatLanes);
      const FloatV e = hn::Sub(w, hn::Mul(Steps(w, at.inverse), at.scale));
      const FloatV he = kWeighted ? hn::Mul(hn::Load(kD, lanes.h + k * kFloatLanes), e) : e;
      sum = hn::Add(sum, hn::Mul(he, e));
    }
    return sum;
  }

  FloatScales scales_;
  HWY_ALIGN std::int32_t first_[kFloatLanes];
};

template <class Grid>
class FloatSearch {
 public:
  FloatSearch(const FloatGroups& groups, ScaleSearch search)
      : groups_(groups),
        search_(search),
        grid_(groups),
        elems_(static_cast<size_t>(groups.group_elems())),
        scratch_(kFloatLanes) {
    scratch_.reserve(elems_, 0);
    w_ = scratch_.weights[0].w;
    h_ = scratch_.weights[0].ws;
  }

  void Run(const FloatCodes& out) {
    for (std::int64_t first = 0; first < groups_.groups; first += static_cast<std::int64_t>(kFloatLanes)) {
      const size_t count = static_cast<size_t>(std::min<std::int64_t>(groups_.groups - first, kFloatLanes));
      Load(first, count);
      Store(first, count, BestScales(), out);
    }
  }

 private:
  static constexpr FloatD kD{};
  static constexpr FloatDI kDI{};

  // `count` groups side by side; lanes without one hold zeros.
  void Load(std::int64_t first, size_t count) {
    if (count < kFloatLanes) std::fill_n(w_, elems_ * kFloatLanes, 0.0F);
    const auto elems = static_cast<std::int64_t>(elems_);
    for (size_t lane = 0; lane < count; ++lane) {
      const std::int64_t at = (first + static_cast<std::int64_t>(lane)) * elems;
      float largest = 0;
      for (size_t k = 0; k < elems_; ++k) {
        const float w = groups_.weights[at + static_cast<std::int64_t>(k)];
        w_[k * kFloatLanes + lane] = Grid::Held(w);
        largest = std::max(largest, std::abs(w));
      }
      grid_.SetLargest(lane, largest);
      if (groups_.importance == nullptr) continue;
      const float* const h = groups_.importance + at % groups_.cols;
      for (size_t k = 0; k < elems_; ++k) h_[k * kFloatLanes + lane] = h[k];
    }
    for (size_t lane = count; lane < kFloatLanes; ++lane) grid_.SetLargest(lane, 0);
  }

  HWY_INLINE LaneScales BestScales() const {
    if (search_ == ScaleSearch::kLargest) return grid_.Largest();
    const GroupLanes lanes{w_, h_, elems_};
    return groups_.importance == nullptr ? grid_.template Search<false>(lanes) : grid_.template Search<true>(lanes);
  }

  void Store(std::int64_t first, size_t count, LaneScales scales, const FloatCodes& out) {
    HWY_ALIGN float scale[kFloatLanes];
    HWY_ALIGN std::int32_t numbers[kFloatLanes];
    hn::Store(scales.scale, kD, scale);
    std::copy_n(scale, count, out.scale + first);
    const auto elems = static_cast<std::int64_t>(elems_);
    for (size_t k = 0; k < elems_; ++k) {
      hn::Store(grid_.Numbers(hn::Load(kD, w_ + k * kFloatLanes), scales.inverse), kDI, numbers);
      for (size_t lane = 0; lane < count; ++lane) {
        const std::int64_t at = (first + static_cast<std::int64_t>(lane)) * elems + static_cast<std::int64_t>(k);
        out.codes[at] = Grid::CodeOf(numbers[lane], groups_.weights[at]);
      }
    }
  }

  FloatGroups groups_;
  ScaleSearch search_;
  Grid grid_;
  size_t elems_;
  simd::Scratch scratch_;
  float* w_ = nullptr;
  float* h_ = nullptr;
};

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();

#endif
