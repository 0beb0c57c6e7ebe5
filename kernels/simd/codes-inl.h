// Codes of N groups side by side, one SIMD lane a group, put where they belong as bytes.
#if defined(HALFQUAD_KERNELS_SIMD_CODES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HALFQUAD_KERNELS_SIMD_CODES_INL_H_
#undef HALFQUAD_KERNELS_SIMD_CODES_INL_H_
#else
#define HALFQUAD_KERNELS_SIMD_CODES_INL_H_
#endif

#include <cstring>

#include "kernels/simd/lanes-inl.h"

#if HWY_TARGET != HWY_SCALAR  // one lane at a time is the reference solver
HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {

using D128 = hn::Full128<uint32_t>;
inline constexpr size_t kBlockCodes = 16;  // codes of one group in a 128-bit block

// What makes the low bits of a float the whole number it holds: up to 2^22, so two codes fit.
HWY_INLINE VF IntegerBits() { return hn::Set(kDF, 12582912.0F); }

// Four codes of each group, one above the other in memory, as the four bytes of its lane.
HWY_INLINE hn::Vec<DU32> FourCodes(const float* HWY_RESTRICT q0, const float* HWY_RESTRICT q1,
                                   const float* HWY_RESTRICT q2, const float* HWY_RESTRICT q3) {
  const DU32 d32;
  const VF next = hn::Set(kDF, 256.0F);  // products and sums are exact, fused or not
  const VF low = hn::MulAdd(hn::Load(kDF, q1), next, hn::Add(hn::Load(kDF, q0), IntegerBits()));
  const VF high = hn::MulAdd(hn::Load(kDF, q3), next, hn::Add(hn::Load(kDF, q2), IntegerBits()));
  return hn::Or(hn::And(hn::BitCast(d32, low), hn::Set(d32, 0xFFFFU)), hn::ShiftLeft<16>(hn::BitCast(d32, high)));
}

// Block b of `v` goes to the row of group 4b + first.
HWY_INLINE void StoreBlocks(hn::Vec<DU32> v, size_t first, std::uint8_t* const* rows, size_t k) {
  const D128 d;
  const auto to = [&](size_t lane) HWY_ATTR { return reinterpret_cast<uint32_t*>(rows[lane] + k); };
#if HWY_MAX_BYTES == 16
  hn::StoreU(v, d, to(first));
#else
  const hn::Half<DU32> half;
  const auto lower = hn::LowerHalf(half, v), upper = hn::UpperHalf(half, v);
#if HWY_MAX_BYTES == 32
  hn::StoreU(lower, d, to(first));
  hn::StoreU(upper, d, to(first + 4));
#else
  hn::StoreU(hn::LowerHalf(d, lower), d, to(first));
  hn::StoreU(hn::UpperHalf(d, lower), d, to(first + 4));
  hn::StoreU(hn::LowerHalf(d, upper), d, to(first + 8));
  hn::StoreU(hn::UpperHalf(d, upper), d, to(first + 12));
#endif
#endif
}

// Sixteen codes of N groups, from `at` floats apart at `codes`, to column k of their rows. Columns from `left` on
// repeat the last.
HWY_INLINE void StoreSixteen(const float* HWY_RESTRICT codes, size_t left, std::uint8_t* const* rows, size_t k) {
  const DU32 d32;
  const hn::Repartition<uint64_t, DF> d64;
  const auto column = [&](size_t i) HWY_ATTR { return codes + (i < left ? i : left - 1) * kLanes; };
  const auto v0 = FourCodes(column(0), column(1), column(2), column(3));
  const auto v1 = FourCodes(column(4), column(5), column(6), column(7));
  const auto v2 = FourCodes(column(8), column(9), column(10), column(11));
  const auto v3 = FourCodes(column(12), column(13), column(14), column(15));
  const auto a0 = hn::BitCast(d64, hn::InterleaveLower(d32, v0, v1));
  const auto a1 = hn::BitCast(d64, hn::InterleaveUpper(d32, v0, v1));
  const auto b0 = hn::BitCast(d64, hn::InterleaveLower(d32, v2, v3));
  const auto b1 = hn::BitCast(d64, hn::InterleaveUpper(d32, v2, v3));
  StoreBlocks(hn::BitCast(d32, hn::InterleaveLower(d64, a0, b0)), 0, rows, k);
  StoreBlocks(hn::BitCast(d32, hn::InterleaveUpper(d64, a0, b0)), 1, rows, k);
  StoreBlocks(hn::BitCast(d32, hn::InterleaveLower(d64, a1, b1)), 2, rows, k);
  StoreBlocks(hn::BitCast(d32, hn::InterleaveUpper(d64, a1, b1)), 3, rows, k);
}

HWY_INLINE void StoreConsecutive(const float* HWY_RESTRICT codes, size_t elems, size_t first, size_t count,
                                 const SolveTarget& target) {
  std::uint8_t unused[kLanes][kBlockCodes];
  std::uint8_t* rows[kLanes];
  const auto row = [&](size_t lane) {
    return target.codes + (first + lane) * static_cast<size_t>(target.group_stride);
  };
  size_t k = 0;
  if (count == kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) rows[lane] = row(lane);
    for (; k + kBlockCodes <= elems; k += kBlockCodes) StoreSixteen(codes + k * kLanes, kBlockCodes, rows, k);
  }
  for (size_t lane = 0; lane < kLanes; ++lane) rows[lane] = unused[lane];
  for (; k < elems; k += kBlockCodes) {
    const size_t left = elems - k < kBlockCodes ? elems - k : kBlockCodes;
    StoreSixteen(codes + k * kLanes, left, rows, 0);
    for (size_t lane = 0; lane < count; ++lane) std::memcpy(row(lane) + k, unused[lane], left);
  }
}

// The same for groups whose elements lie apart.
HWY_INLINE void StoreStrided(const float* HWY_RESTRICT codes, size_t elems, size_t first, size_t count,
                             const SolveTarget& target) {
  const hn::Rebind<uint8_t, DF> d8;
  for (size_t k = 0; k < elems; ++k) {
    const VF bits = hn::Add(hn::Load(kDF, codes + k * kLanes), IntegerBits());
    const auto bytes = hn::TruncateTo(d8, hn::BitCast(DU32(), bits));
    std::uint8_t* to = target.codes + k * static_cast<size_t>(target.element_stride) + first;
    if (count == kLanes) {
      hn::StoreU(bytes, d8, to);
    } else {
      HWY_ALIGN uint8_t tail[kLanes];
      hn::StoreU(bytes, d8, tail);
      for (size_t lane = 0; lane < count; ++lane) to[lane] = tail[lane];
    }
  }
}

// Writes the codes of groups [first, first + count), given as floats.
HWY_INLINE void StoreCodes(const GroupBlock& block, size_t first, size_t count, const float* codes,
                           const SolveTarget& target) {
  const size_t elems = static_cast<size_t>(block.group_elems);
  if (block.element_stride == 1) return StoreConsecutive(codes, elems, first, count, target);
  StoreStrided(codes, elems, first, count, target);
}

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();
#endif

#endif
