// Weights of N groups side by side: one SIMD lane is one group.
#if defined(HALFQUAD_KERNELS_SIMD_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HALFQUAD_KERNELS_SIMD_LANES_INL_H_
#undef HALFQUAD_KERNELS_SIMD_LANES_INL_H_
#else
#define HALFQUAD_KERNELS_SIMD_LANES_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <limits>

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "kernels/decode.h"
#include "kernels/simd/scratch.h"
#include "kernels/solver.h"

#if HWY_TARGET != HWY_SCALAR  // one lane at a time is the reference solver
HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::ScalableTag<float>;
using DI = hn::RebindToSigned<DF>;
using DU32 = hn::RebindToUnsigned<DF>;
using DU16 = hn::Repartition<uint16_t, DF>;
using DI16 = hn::Repartition<int16_t, DF>;
using DHalf = hn::Half<DF>;
using DF64 = hn::Repartition<double, DF>;
using VF = hn::Vec<DF>;
using MF = hn::Mask<DF>;
inline constexpr DF kDF{};
inline constexpr size_t kLanes = HWY_MAX_BYTES / sizeof(float);  // scalable targets are disabled

// a + b and a - b. With fused multiply-add hardware they go through its pipes as a·1 ± b: the product with one is
// exact, so the result is the same single rounding, and the multiply pipes share the load of a loop that is nearly all
// additions.
HWY_INLINE VF AddOnMulPipe(VF a, VF b) {
#if HWY_NATIVE_FMA
  return hn::MulAdd(a, hn::Set(kDF, 1.0F), b);
#else
  return hn::Add(a, b);
#endif
}
HWY_INLINE VF SubOnMulPipe(VF a, VF b) {
#if HWY_NATIVE_FMA
  return hn::MulSub(a, hn::Set(kDF, 1.0F), b);
#else
  return hn::Sub(a, b);
#endif
}

// N fp16 values without conversion hardware (emulations elsewhere lose NaN and infinity): shifted into place the bits
// are the value times 2^-112, subnormals included.
HWY_INLINE VF DecodeF16(const std::byte* HWY_RESTRICT p) {
  const hn::Rebind<uint16_t, DF> d16;
  const hn::RebindToUnsigned<DF> d32;
  const auto half = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(half, hn::Set(d32, 0x7FFFU)));
  const auto sign = hn::ShiftLeft<16>(hn::And(half, hn::Set(d32, 0x8000U)));
  const VF value = hn::Mul(hn::BitCast(kDF, magnitude), hn::Set(kDF, 0x1p112F));
  // NaN and infinity have all exponent bits set. Compared as signed: the magnitude has no sign bit.
  const auto special = hn::Gt(hn::BitCast(DI(), magnitude), hn::Set(DI(), (0x7C00 << 13) - 1));
  const auto bits = hn::BitCast(DI(), value);
  const auto fixed = hn::IfThenElse(special, hn::Or(bits, hn::Set(DI(), 0x7F800000)), bits);
  return hn::BitCast(kDF, hn::Or(fixed, hn::BitCast(DI(), sign)));
}

// N consecutive elements as fp32.
template <DType kType>
HWY_INLINE VF DecodeVector(const std::byte* HWY_RESTRICT p) {
  if constexpr (kType == DType::kF32) {
    return hn::LoadU(kDF, reinterpret_cast<const float*>(p));
  } else if constexpr (kType == DType::kBF16) {
    const hn::Rebind<uint16_t, DF> d16;
    const hn::RebindToUnsigned<DF> d32;
    const auto bits = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
    return hn::BitCast(kDF, hn::ShiftLeft<16>(bits));
  } else if constexpr (kType == DType::kF16) {
#if HWY_TARGET <= HWY_AVX2 && HWY_ARCH_X86
    const hn::Rebind<hwy::float16_t, DF> d16;
    return hn::PromoteTo(kDF, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
#else
    return DecodeF16(p);
#endif
  } else if constexpr (kType == DType::kF64) {
    const DF64 d64;
    const auto* in = reinterpret_cast<const double*>(p);
    const auto lower = hn::DemoteTo(DHalf(), hn::LoadU(d64, in));
    const auto upper = hn::DemoteTo(DHalf(), hn::LoadU(d64, in + hn::Lanes(d64)));
    return hn::Combine(kDF, upper, lower);
  } else {
    static_assert(kType == DType::kU8);
    const hn::Rebind<uint8_t, DF> d8;
    return hn::ConvertTo(kDF, hn::PromoteTo(DI(), hn::LoadU(d8, reinterpret_cast<const uint8_t*>(p))));
  }
}

HWY_INLINE void DecodeTail(const std::byte* p, DType dtype, size_t count, float* out) {
  if (dtype == DType::kU8) {
    for (size_t i = 0; i < count; ++i) out[i] = static_cast<float>(p[i]);
  } else {
    decode_to_f32(p, dtype, static_cast<int64_t>(count), out);
  }
}

template <DType kType>
HWY_INLINE void DecodeRow(const std::byte* HWY_RESTRICT p, size_t count, float* HWY_RESTRICT out) {
  constexpr size_t kBytes = kType == DType::kU8 ? 1 : kType == DType::kF64 ? 8 : kType == DType::kF32 ? 4 : 2;
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) hn::Store(DecodeVector<kType>(p + i * kBytes), kDF, out + i);
  if (i < count) DecodeTail(p + i * kBytes, kType, count - i, out + i);
}

// Four 4-element blocks (as many as fit a vector): block b is the 16 bytes at p + b * stride.
HWY_INLINE VF LoadBlocks(const float* HWY_RESTRICT p, size_t stride) {
#if HWY_MAX_BYTES == 16
  (void)stride;
  return hn::Load(kDF, p);
#elif HWY_MAX_BYTES == 32
  return hn::Combine(kDF, hn::Load(DHalf(), p + stride), hn::Load(DHalf(), p));
#else
  const hn::Half<DHalf> d128;
  const auto lower = hn::Combine(DHalf(), hn::Load(d128, p + stride), hn::Load(d128, p));
  const auto upper = hn::Combine(DHalf(), hn::Load(d128, p + 3 * stride), hn::Load(d128, p + 2 * stride));
  return hn::Combine(kDF, upper, lower);
#endif
}

// Columns k .. k+3 of N rows of length `stride` become four vectors of N lanes.
HWY_INLINE void TransposeFour(const float* HWY_RESTRICT rows, size_t stride, size_t k, float* HWY_RESTRICT out) {
  const hn::Repartition<uint64_t, DF> d64;
  const VF v0 = LoadBlocks(rows + 0 * stride + k, 4 * stride);
  const VF v1 = LoadBlocks(rows + 1 * stride + k, 4 * stride);
  const VF v2 = LoadBlocks(rows + 2 * stride + k, 4 * stride);
  const VF v3 = LoadBlocks(rows + 3 * stride + k, 4 * stride);
  const auto a0 = hn::BitCast(d64, hn::InterleaveLower(kDF, v0, v1));
  const auto a1 = hn::BitCast(d64, hn::InterleaveUpper(kDF, v0, v1));
  const auto b0 = hn::BitCast(d64, hn::InterleaveLower(kDF, v2, v3));
  const auto b1 = hn::BitCast(d64, hn::InterleaveUpper(kDF, v2, v3));
  hn::Store(hn::BitCast(kDF, hn::InterleaveLower(d64, a0, b0)), kDF, out + (k + 0) * kLanes);
  hn::Store(hn::BitCast(kDF, hn::InterleaveUpper(d64, a0, b0)), kDF, out + (k + 1) * kLanes);
  hn::Store(hn::BitCast(kDF, hn::InterleaveLower(d64, a1, b1)), kDF, out + (k + 2) * kLanes);
  hn::Store(hn::BitCast(kDF, hn::InterleaveUpper(d64, a1, b1)), kDF, out + (k + 3) * kLanes);
}

// Eight bf16 columns k .. k+7 of N rows become eight vectors of N fp32 lanes: the values are moved together as 16-bit
// integers, half the shuffles of moving fp32, and widened by putting zeros below them.
HWY_INLINE VF WidenLower(hn::Vec<DU16> v) {
  const DU16 d16;
  return hn::BitCast(kDF, hn::InterleaveLower(d16, hn::Zero(d16), v));
}
HWY_INLINE VF WidenUpper(hn::Vec<DU16> v) {
  const DU16 d16;
  return hn::BitCast(kDF, hn::InterleaveUpper(d16, hn::Zero(d16), v));
}

// The largest bits of each lane's weights, as integers of either kind.
struct LargestBits {
  hn::Vec<DU32> as_unsigned;
  hn::Vec<DI> as_signed;

  HWY_INLINE void Add(hn::Vec<DU32> x) {
    as_unsigned = hn::Max(as_unsigned, x);
    as_signed = hn::Max(as_signed, hn::BitCast(DI(), x));
  }
};

// The same of bf16 weights, two columns of N lanes in each vector as TransposeEightBF16() has them.
struct LargestHalves {
  hn::Vec<DU16> as_unsigned;
  hn::Vec<DI16> as_signed;

  HWY_INLINE void Clear() {
    as_unsigned = hn::Zero(DU16());
    as_signed = hn::Set(DI16(), std::numeric_limits<int16_t>::min());
  }
  HWY_INLINE void Add(hn::Vec<DU16> x) {
    as_unsigned = hn::Max(as_unsigned, x);
    as_signed = hn::Max(as_signed, hn::BitCast(DI16(), x));
  }
  HWY_INLINE LargestBits Bits() const {
    const auto bits = hn::BitCast(DU16(), as_signed);
    LargestBits largest;
    largest.as_unsigned =
        hn::Max(hn::BitCast(DU32(), WidenLower(as_unsigned)), hn::BitCast(DU32(), WidenUpper(as_unsigned)));
    largest.as_signed = hn::Max(hn::BitCast(DI(), WidenLower(bits)), hn::BitCast(DI(), WidenUpper(bits)));
    return largest;
  }
};

// rows[lane]: the first of that group's elements.
HWY_INLINE void TransposeEightBF16(const std::byte* const* rows, size_t k, float* HWY_RESTRICT out,
                                   LargestHalves* largest = nullptr) {
  const hn::Repartition<uint16_t, DF> d16;
  const hn::Repartition<uint32_t, DF> d32;
  const auto load = [&](size_t row) HWY_ATTR {
    const hn::Full128<float> d128;
    const auto block = [&](size_t lane)
                           HWY_ATTR { return hn::LoadU(d128, reinterpret_cast<const float*>(rows[lane] + k * 2)); };
#if HWY_MAX_BYTES == 16
    return hn::BitCast(d16, block(row));
#elif HWY_MAX_BYTES == 32
    return hn::BitCast(d16, hn::Combine(kDF, block(row + 4), block(row)));
#else
    return hn::BitCast(d16, hn::Combine(kDF, hn::Combine(DHalf(), block(row + 12), block(row + 8)),
                                        hn::Combine(DHalf(), block(row + 4), block(row))));
#endif
  };
  const auto v0 = load(0), v1 = load(1), v2 = load(2), v3 = load(3);
  const auto a_low = hn::BitCast(d32, hn::InterleaveLower(d16, v0, v1));
  const auto a_high = hn::BitCast(d32, hn::InterleaveUpper(d16, v0, v1));
  const auto b_low = hn::BitCast(d32, hn::InterleaveLower(d16, v2, v3));
  const auto b_high = hn::BitCast(d32, hn::InterleaveUpper(d16, v2, v3));
  const auto c01 = hn::BitCast(d16, hn::InterleaveLower(d32, a_low, b_low));
  const auto c23 = hn::BitCast(d16, hn::InterleaveUpper(d32, a_low, b_low));
  const auto c45 = hn::BitCast(d16, hn::InterleaveLower(d32, a_high, b_high));
  const auto c67 = hn::BitCast(d16, hn::InterleaveUpper(d32, a_high, b_high));
  if (largest != nullptr) {
    largest->Add(c01);
    largest->Add(c23);
    largest->Add(c45);
    largest->Add(c67);
  }
  hn::Store(WidenLower(c01), kDF, out + (k + 0) * kLanes);
  hn::Store(WidenUpper(c01), kDF, out + (k + 1) * kLanes);
  hn::Store(WidenLower(c23), kDF, out + (k + 2) * kLanes);
  hn::Store(WidenUpper(c23), kDF, out + (k + 3) * kLanes);
  hn::Store(WidenLower(c45), kDF, out + (k + 4) * kLanes);
  hn::Store(WidenUpper(c45), kDF, out + (k + 5) * kLanes);
  hn::Store(WidenLower(c67), kDF, out + (k + 6) * kLanes);
  hn::Store(WidenUpper(c67), kDF, out + (k + 7) * kLanes);
}

// Weights come from memory that a device has just written: the solver would wait for the first lines of every group.
// What lies behind the end of a block is not touched.
HWY_INLINE void Prefetch(const std::byte* p, size_t bytes) {
  constexpr size_t kLine = 64, kMostBytes = 256;  // longer groups the hardware sees coming
  for (size_t at = 0; at < bytes && at < kMostBytes; at += kLine) hwy::Prefetch(reinterpret_cast<const float*>(p + at));
}

// Where the elements of groups [first, first + count) begin. Those of the groups after the next ones are asked for.
HWY_INLINE void FindStarts(const GroupBlock& block, size_t first, size_t count, size_t bytes,
                           const std::byte** starts) {
  const size_t stride = static_cast<size_t>(block.group_stride) * bytes;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    starts[lane] = block.data + (first + (lane < count ? lane : 0)) * stride;
    Prefetch(starts[lane] + 2 * kLanes * stride, static_cast<size_t>(block.group_elems) * bytes);
  }
}

// Whether groups of consecutive bf16 weights can be loaded eight columns at a time.
HWY_INLINE bool InEights(const GroupBlock& block) { return block.group_elems % 8 == 0; }

HWY_INLINE void LoadEights(const GroupBlock& block, size_t first, size_t count, float* out,
                           LargestHalves* largest = nullptr) {
  const std::byte* starts[kLanes];
  FindStarts(block, first, count, 2, starts);
  const size_t elems = static_cast<size_t>(block.group_elems);
  for (size_t k = 0; k < elems; k += 8) TransposeEightBF16(starts, k, out, largest);
}

// Groups [first, first + count) of `block`, count <= N, into out[k * N + lane]; lanes beyond `count` repeat group
// `first`, so that they never decide anything.
template <DType kType>
HWY_INLINE void LoadConsecutive(const GroupBlock& block, size_t first, size_t count, float* rows, size_t stride,
                                float* out) {
  if (kType == DType::kBF16 && InEights(block)) return LoadEights(block, first, count, out);
  const size_t elems = static_cast<size_t>(block.group_elems);
  const std::byte* starts[kLanes];
  FindStarts(block, first, count, kType == DType::kU8 ? 1 : static_cast<size_t>(bytes_of(kType)), starts);
  for (size_t lane = 0; lane < kLanes; ++lane) DecodeRow<kType>(starts[lane], elems, rows + lane * stride);
  for (size_t k = 0; k < elems; k += 4) TransposeFour(rows, stride, k, out);
}

template <DType kType>
HWY_INLINE void LoadStrided(const GroupBlock& block, size_t first, size_t count, float* out) {
  const size_t elems = static_cast<size_t>(block.group_elems);
  const size_t bytes = kType == DType::kU8 ? 1 : static_cast<size_t>(bytes_of(kType));
  const size_t row_bytes = static_cast<size_t>(block.element_stride) * bytes;
  const std::byte* p = block.data + first * bytes;
  for (size_t k = 0; k < elems; ++k, p += row_bytes, out += kLanes) {
    if (count == kLanes) {
      hn::Store(DecodeVector<kType>(p), kDF, out);
    } else {
      DecodeTail(p, kType, count, out);
      for (size_t lane = count; lane < kLanes; ++lane) out[lane] = out[0];
    }
  }
}

template <DType kType>
HWY_INLINE void LoadTyped(const GroupBlock& block, size_t first, size_t count, const simd::Scratch& scratch,
                          float* out) {
  if (block.element_stride == 1) {
    LoadConsecutive<kType>(block, first, count, scratch.rows, scratch.stride, out);
  } else {
    LoadStrided<kType>(block, first, count, out);
  }
}

HWY_INLINE void LoadLanes(const GroupBlock& block, size_t first, size_t count, const simd::Scratch& scratch,
                          float* out) {
  if (block.dtype == DType::kBF16) return LoadTyped<DType::kBF16>(block, first, count, scratch, out);
  if (block.dtype == DType::kF16) return LoadTyped<DType::kF16>(block, first, count, scratch, out);
  if (block.dtype == DType::kF64) return LoadTyped<DType::kF64>(block, first, count, scratch, out);
  if (block.dtype == DType::kU8) return LoadTyped<DType::kU8>(block, first, count, scratch, out);
  return LoadTyped<DType::kF32>(block, first, count, scratch, out);
}

HWY_INLINE LargestBits FindLargestBits(const float* HWY_RESTRICT w, size_t elems) {
  LargestBits largest;
  largest.as_unsigned = hn::BitCast(DU32(), hn::Load(kDF, w));
  largest.as_signed = hn::BitCast(DI(), largest.as_unsigned);
  for (size_t k = 1; k < elems; ++k) largest.Add(hn::BitCast(DU32(), hn::Load(kDF, w + k * kLanes)));
  return largest;
}

// LoadLanes() that finds the largest bits on the way.
HWY_INLINE LargestBits LoadLanesAndLargest(const GroupBlock& block, size_t first, size_t count,
                                           const simd::Scratch& scratch, float* out) {
  if (block.dtype == DType::kBF16 && block.element_stride == 1 && InEights(block)) {
    LargestHalves largest;
    largest.Clear();
    LoadEights(block, first, count, out, &largest);
    return largest.Bits();
  }
  LoadLanes(block, first, count, scratch, out);
  return FindLargestBits(out, static_cast<size_t>(block.group_elems));
}

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();
#endif

#endif
