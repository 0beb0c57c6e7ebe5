// The search for the scales and codes of a floating-point grid: one SIMD lane is one group, in the order of the
// reference.
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

HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

class FloatSearch {
 public:
  FloatSearch(const FloatGroups& groups, ScaleSearch search)
      : groups_(groups),
        search_(search),
        scales_(groups.grid, groups.tensor_scale),
        elems_(static_cast<size_t>(group_size_of(groups.grid))) {}

  void Run(const FloatCodes& out) {
    for (std::int64_t first = 0; first < groups_.groups; first += static_cast<std::int64_t>(kN)) {
      const size_t count = static_cast<size_t>(std::min<std::int64_t>(groups_.groups - first, kN));
      Load(first, count);
      Store(first, count, BestBytes(), out);
    }
  }

 private:
  static constexpr size_t kMostElems = 32;
  static constexpr size_t kN = HWY_LANES(float);
  using D = hn::CappedTag<float, kN>;
  using DI = hn::RebindToSigned<D>;
  using V = hn::Vec<D>;
  using VI = hn::Vec<DI>;
  static constexpr D kD{};
  static constexpr DI kDI{};

  // The magnitudes of `count` groups side by side; lanes without one hold zeros.
  void Load(std::int64_t first, size_t count) {
    if (count < kN) std::fill_n(w_, elems_ * kN, 0.0F);
    const auto elems = static_cast<std::int64_t>(elems_);
    for (size_t lane = 0; lane < count; ++lane) {
      const std::int64_t at = (first + static_cast<std::int64_t>(lane)) * elems;
      float largest = 0;
      for (size_t k = 0; k < elems_; ++k) {
        const float magnitude = std::abs(groups_.weights[at + static_cast<std::int64_t>(k)]);
        w_[k * kN + lane] = magnitude;
        largest = std::max(largest, magnitude);
      }
      first_[lane] = scales_.first_byte(largest);
      if (groups_.importance == nullptr) continue;
      const float* const h = groups_.importance + at % groups_.cols;
      for (size_t k = 0; k < elems_; ++k) h_[k * kN + lane] = h[k];
    }
    for (size_t lane = count; lane < kN; ++lane) first_[lane] = scales_.lowest;
  }

  static HWY_INLINE V Steps(V magnitude, V inverse_scale) {
    const V x = hn::Mul(magnitude, inverse_scale);
    const V one = hn::Set(kD, 1.0F);
    const auto below4 = hn::Lt(x, hn::Set(kD, 4.0F));
    const auto below8 = hn::Lt(x, hn::Set(kD, 8.0F));
    const V unit = hn::IfThenElse(below4, one, hn::IfThenElse(below8, hn::Set(kD, 2.0F), hn::Set(kD, 4.0F)));
    const V inverse = hn::IfThenElse(below4, one, hn::IfThenElse(below8, hn::Set(kD, 0.5F), hn::Set(kD, 0.25F)));
    return hn::Min(hn::Set(kD, 12.0F), hn::Mul(hn::Round(hn::Mul(x, inverse)), unit));
  }

  template <bool kWeighted>
  HWY_INLINE V Objective(VI byte) const {
    const V scale = hn::GatherIndex(kD, scales_.scale.data(), byte);
    const V inverse = hn::GatherIndex(kD, scales_.inverse.data(), byte);
    V sum = hn::Zero(kD);
    for (size_t k = 0; k < elems_; ++k) {
      const V w = hn::Load(kD, w_ + k * kN);
      const V e = hn::Sub(w, hn::Mul(Steps(w, inverse), scale));
      const V he = kWeighted ? hn::Mul(hn::Load(kD, h_ + k * kN), e) : e;
      sum = hn::Add(sum, hn::Mul(he, e));
    }
    return sum;
  }

  template <bool kWeighted>
  HWY_INLINE VI Search(VI first) const {
    const VI lowest = hn::Set(kDI, scales_.lowest), highest = hn::Set(kDI, scales_.highest);
    VI best = first;
    V least = Objective<kWeighted>(first);
    for (const int offset : scales_.offsets.subspan(1)) {
      const VI byte = hn::Min(hn::Max(hn::Add(first, hn::Set(kDI, offset)), lowest), highest);
      const V found = Objective<kWeighted>(byte);
      const auto better = hn::Lt(found, least);
      least = hn::IfThenElse(better, found, least);
      best = hn::IfThenElse(hn::RebindMask(kDI, better), byte, best);
    }
    return best;
  }

  HWY_INLINE VI BestBytes() const {
    const VI first = hn::Load(kDI, first_);
    if (search_ == ScaleSearch::kLargest) return first;
    return groups_.importance == nullptr ? Search<false>(first) : Search<true>(first);
  }

  void Store(std::int64_t first, size_t count, VI bytes, const FloatCodes& out) {
    const V inverse = hn::GatherIndex(kD, scales_.inverse.data(), bytes);
    HWY_ALIGN float scale[kN];
    hn::Store(hn::GatherIndex(kD, scales_.scale.data(), bytes), kD, scale);
    for (size_t k = 0; k < elems_; ++k) {
      hn::Store(hn::ConvertTo(kDI, Steps(hn::Load(kD, w_ + k * kN), inverse)), kDI, steps_ + k * kN);
    }
    const auto elems = static_cast<std::int64_t>(elems_);
    for (size_t lane = 0; lane < count; ++lane) {
      const std::int64_t group = first + static_cast<std::int64_t>(lane);
      out.scale[group] = scale[lane];
      for (size_t k = 0; k < elems_; ++k) {
        const std::int64_t at = group * elems + static_cast<std::int64_t>(k);
        const std::int32_t steps = steps_[k * kN + lane];
        out.codes[at] =
            static_cast<std::uint8_t>(kFloatCodeZero + (std::signbit(groups_.weights[at]) ? -steps : steps));
      }
    }
  }

  FloatGroups groups_;
  ScaleSearch search_;
  FloatScales scales_;
  size_t elems_;
  HWY_ALIGN float w_[kMostElems * kN];
  HWY_ALIGN float h_[kMostElems * kN] = {};
  HWY_ALIGN std::int32_t steps_[kMostElems * kN];
  HWY_ALIGN std::int32_t first_[kN];
};

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();

#endif
