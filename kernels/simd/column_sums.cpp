#include "kernels/simd/column_sums.h"

#include "kernels/decode.h"

#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)  // as for the solver
#define HWY_BROKEN_EMU128 1
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/column_sums.cpp"  // NOLINT
#include <hwy/foreach_target.h>                            // must come before the per-target code

#include "kernels/simd/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {
namespace {

// Columns [at, end) one by one. Those outside of their window and not zero go to `outside`; returns how many.
size_t AddEach(const simd::ColumnRun& run, size_t at, size_t end, std::uint32_t* outside) {
  size_t found = 0;
  for (; at < end; ++at) {
    float w = 0;
    decode_to_f32(run.data + static_cast<int64_t>(at) * bytes_of(run.dtype), run.dtype, 1, &w);
    const float magnitude = simd::column_magnitude(w);
    if (simd::in_window(magnitude, run.window[at])) {
      run.abs[at] += double{magnitude};
      run.square[at] += double{magnitude} * double{magnitude};
    } else if (magnitude != 0) {
      outside[found++] = static_cast<std::uint32_t>(at);
    }
  }
  return found;
}

#if HWY_TARGET == HWY_SCALAR

size_t AddColumns(const simd::ColumnRun& run, std::uint32_t* outside) { return AddEach(run, 0, run.count, outside); }

#else

// Adds half a vector to double sums; a product of two magnitudes is exact, fused or not.
HWY_INLINE void AddHalf(hn::Vec<DF64> magnitude, double* HWY_RESTRICT abs, double* HWY_RESTRICT square) {
  const DF64 d;
  hn::StoreU(hn::Add(hn::LoadU(d, abs), magnitude), d, abs);
  hn::StoreU(hn::MulAdd(magnitude, magnitude, hn::LoadU(d, square)), d, square);
}

template <DType kType>
HWY_INLINE size_t AddTyped(const simd::ColumnRun& run, std::uint32_t* outside) {
  constexpr size_t kBytes = kType == DType::kF32 ? 4 : 2;
  const DI di;
  const DF64 dd;
  const VF keep = hn::BitCast(kDF, hn::Set(di, 0x7FFFC000));
  const auto end = hn::Set(di, INT32_MIN + (simd::kWindowOctaves << 23));
  size_t found = 0;
  size_t at = 0;
  for (; at + kLanes <= run.count; at += kLanes) {
    const VF magnitude = hn::And(DecodeVector<kType>(run.data + at * kBytes), keep);
    const auto above = hn::Sub(hn::BitCast(di, magnitude), hn::LoadU(di, run.window + at));
    const VF counted = hn::IfThenElseZero(hn::RebindMask(kDF, hn::Lt(above, end)), magnitude);
    AddHalf(hn::PromoteTo(dd, hn::LowerHalf(DHalf(), counted)), run.abs + at, run.square + at);
    AddHalf(hn::PromoteTo(dd, hn::UpperHalf(DHalf(), counted)), run.abs + at + kLanes / 2,
            run.square + at + kLanes / 2);
    if (HWY_LIKELY(hn::AllTrue(di, hn::Eq(hn::BitCast(di, magnitude), hn::BitCast(di, counted))))) continue;
    HWY_ALIGN float all[kLanes];
    hn::Store(magnitude, kDF, all);
    for (size_t lane = 0; lane < kLanes; ++lane) {
      if (all[lane] != 0 && !simd::in_window(all[lane], run.window[at + lane])) {
        outside[found++] = static_cast<std::uint32_t>(at + lane);
      }
    }
  }
  return found + AddEach(run, at, run.count, outside + found);
}

size_t AddColumns(const simd::ColumnRun& run, std::uint32_t* outside) {
  if (run.dtype == DType::kBF16) return AddTyped<DType::kBF16>(run, outside);
  if (run.dtype == DType::kF16) return AddTyped<DType::kF16>(run, outside);
  return AddTyped<DType::kF32>(run, outside);
}

#endif

}  // namespace

size_t ColumnsOfTarget(const simd::ColumnRun& run, std::uint32_t* outside) { return AddColumns(run, outside); }

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halfquad {
namespace {

HWY_EXPORT(ColumnsOfTarget);

}  // namespace

std::size_t simd::add_columns(const ColumnRun& run, std::uint32_t* outside) noexcept {
  return HWY_DYNAMIC_DISPATCH(ColumnsOfTarget)(run, outside);
}

}  // namespace halfquad
#endif
