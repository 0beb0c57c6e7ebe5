#include "kernels/simd/words.h"

#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)  // as for the solver
#define HWY_BROKEN_EMU128 1
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/words.cpp"  // NOLINT
#include <hwy/foreach_target.h>                      // must come before the per-target code
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Vectors of 16 bytes on every CPU: what wider ones interleave would only have to be put in order again.
#if HWY_TARGET == HWY_SCALAR

std::size_t PackStream(int, const std::uint8_t*, std::size_t, std::byte*) { return 0; }
std::size_t AwqWords(const simd::AwqRows&, std::size_t, std::uint32_t*) { return 0; }
std::size_t StoreColumns(const simd::WordBlock&, std::byte*, std::ptrdiff_t) { return 0; }

#else

// Two vectors of codes of kBits bits, a byte each, as one of their pairs: two neighbours side by side in a byte.
template <int kBits, class V>
V Pairs(V first, V second) {
  const hn::FixedTag<std::uint8_t, 16> bytes;
  const hn::Repartition<std::uint16_t, decltype(bytes)> halves;
  // The low byte of each 16 bits; what is left in the high one is not taken.
  const auto joined = [&](V codes) {
    const auto pairs = hn::BitCast(halves, codes);
    return hn::BitCast(bytes, hn::Or(pairs, hn::ShiftRight<8 - kBits>(pairs)));
  };
  return hn::ConcatEven(bytes, joined(second), joined(first));
}

std::size_t PackStream(int bits, const std::uint8_t* codes, std::size_t count, std::byte* out) {
  const hn::FixedTag<std::uint8_t, 16> bytes;
  const std::size_t step = hn::Lanes(bytes);
  auto* to = reinterpret_cast<std::uint8_t*>(out);
  const auto load = [&](std::size_t i) { return hn::LoadU(bytes, codes + i); };
  std::size_t i = 0;
  if (bits == 4) {
    for (; i + 2 * step <= count; i += 2 * step, to += step) {
      hn::StoreU(Pairs<4>(load(i), load(i + step)), bytes, to);
    }
  } else if (bits == 2) {
    for (; i + 4 * step <= count; i += 4 * step, to += step) {
      const auto low = Pairs<2>(load(i), load(i + step)), high = Pairs<2>(load(i + 2 * step), load(i + 3 * step));
      hn::StoreU(Pairs<4>(low, high), bytes, to);
    }
  }
  return i;
}

std::size_t AwqWords(const simd::AwqRows& rows, std::size_t columns, std::uint32_t* words) {
  const hn::FixedTag<std::uint8_t, 16> bytes;
  const hn::Repartition<std::uint16_t, decltype(bytes)> halves;
  const hn::Repartition<std::uint32_t, decltype(bytes)> whole;
  const std::size_t step = hn::Lanes(bytes), quarter = hn::Lanes(whole);
  std::size_t c = 0;
  for (; c + step <= columns; c += step, words += step) {
    // Codes are below 16, so that nothing is shifted into the next byte.
    const auto pair = [&](std::size_t i) {
      const auto low = hn::LoadU(bytes, rows[i] + c), high = hn::LoadU(bytes, rows[i + 1] + c);
      return hn::Or(low, hn::BitCast(bytes, hn::ShiftLeft<4>(hn::BitCast(halves, high))));
    };
    const auto first = pair(0), second = pair(2), third = pair(4), fourth = pair(6);
    const auto put = [&](auto low, auto high, std::size_t at) {
      hn::StoreU(hn::BitCast(whole, hn::InterleaveLower(halves, low, high)), whole, words + at);
      hn::StoreU(hn::BitCast(whole, hn::InterleaveUpper(halves, low, high)), whole, words + at + quarter);
    };
    put(hn::BitCast(halves, hn::InterleaveLower(bytes, first, second)),
        hn::BitCast(halves, hn::InterleaveLower(bytes, third, fourth)), 0);
    put(hn::BitCast(halves, hn::InterleaveUpper(bytes, first, second)),
        hn::BitCast(halves, hn::InterleaveUpper(bytes, third, fourth)), 2 * quarter);
  }
  return c;
}

// Four columns of four rows, or of two, to their places.
template <class Load>
void StoreFour(Load load, std::uint8_t* out, std::ptrdiff_t out_stride) {
  const hn::FixedTag<std::uint32_t, 4> whole;
  const hn::Repartition<std::uint64_t, decltype(whole)> pairs;
  const hn::Repartition<std::uint8_t, decltype(whole)> bytes;
  const auto put = [&](auto low, auto high, std::uint8_t* to) {
    hn::StoreU(hn::BitCast(bytes, hn::InterleaveLower(pairs, low, high)), bytes, to);
    hn::StoreU(hn::BitCast(bytes, hn::InterleaveUpper(pairs, low, high)), bytes, to + out_stride);
  };
  const auto a = load(0), b = load(1), c = load(2), d = load(3);
  put(hn::BitCast(pairs, hn::InterleaveLower(whole, a, b)), hn::BitCast(pairs, hn::InterleaveLower(whole, c, d)), out);
  put(hn::BitCast(pairs, hn::InterleaveUpper(whole, a, b)), hn::BitCast(pairs, hn::InterleaveUpper(whole, c, d)),
      out + 2 * out_stride);
}

template <class Load>
void StoreTwo(Load load, std::uint8_t* out, std::ptrdiff_t out_stride) {
  const hn::FixedTag<std::uint32_t, 4> whole;
  const hn::Repartition<std::uint8_t, decltype(whole)> bytes;
  const hn::Half<decltype(bytes)> half;
  const auto put = [&](auto columns, std::uint8_t* to) {
    hn::StoreU(hn::LowerHalf(half, hn::BitCast(bytes, columns)), half, to);
    hn::StoreU(hn::UpperHalf(half, hn::BitCast(bytes, columns)), half, to + out_stride);
  };
  const auto a = load(0), b = load(1);
  put(hn::InterleaveLower(whole, a, b), out);
  put(hn::InterleaveUpper(whole, a, b), out + 2 * out_stride);
}

std::size_t StoreColumns(const simd::WordBlock& block, std::byte* out, std::ptrdiff_t out_stride) {
  const hn::FixedTag<std::uint32_t, 4> whole;
  constexpr std::size_t kStep = 4;
  if (block.rows % 2 != 0) return 0;
  auto* to = reinterpret_cast<std::uint8_t*>(out);
  std::size_t c = 0;
  for (; c + kStep <= block.columns; c += kStep, to += static_cast<std::ptrdiff_t>(kStep) * out_stride) {
    for (std::size_t row = 0; row < block.rows; row += kStep) {
      const auto load = [&](std::size_t i) { return hn::LoadU(whole, block.words + (row + i) * block.stride + c); };
      std::uint8_t* const at = to + row * sizeof(std::uint32_t);
      if (row + kStep <= block.rows) {
        StoreFour(load, at, out_stride);
      } else {
        StoreTwo(load, at, out_stride);
      }
    }
  }
  return c;
}

#endif

}  // namespace HWY_NAMESPACE
}  // namespace halfquad
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace halfquad {
namespace {

HWY_EXPORT(PackStream);
HWY_EXPORT(AwqWords);
HWY_EXPORT(StoreColumns);

}  // namespace

std::size_t simd::pack_stream(int bits, const std::uint8_t* codes, std::size_t count, std::byte* out) noexcept {
  return HWY_DYNAMIC_DISPATCH(PackStream)(bits, codes, count, out);
}

std::size_t simd::awq_words(const AwqRows& rows, std::size_t columns, std::uint32_t* words) noexcept {
  return HWY_DYNAMIC_DISPATCH(AwqWords)(rows, columns, words);
}

std::size_t simd::store_columns(const WordBlock& block, std::byte* out, std::ptrdiff_t out_stride) noexcept {
  return HWY_DYNAMIC_DISPATCH(StoreColumns)(block, out, out_stride);
}

}  // namespace halfquad
#endif
