#include "kernels/simd/awq_words.h"

#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)  // as for the solver
#define HWY_BROKEN_EMU128 1
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/awq_words.cpp"  // NOLINT
#include <hwy/foreach_target.h>                          // must come before the per-target code
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace halfquad {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Vectors of 16 bytes on every CPU: what wider ones interleave would only have to be put in order again.
#if HWY_TARGET == HWY_SCALAR

std::size_t AwqWords(const simd::AwqRows&, std::size_t, std::uint32_t*) { return 0; }
std::size_t AwqColumns(const std::uint32_t*, std::size_t, std::size_t, std::byte*, std::ptrdiff_t) { return 0; }

#else

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

std::size_t AwqColumns(const std::uint32_t* words, std::size_t stride, std::size_t columns, std::byte* out,
                       std::ptrdiff_t out_stride) {
  const hn::FixedTag<std::uint32_t, 4> whole;
  const hn::Repartition<std::uint64_t, decltype(whole)> pairs;
  const hn::Repartition<std::uint8_t, decltype(whole)> bytes;
  constexpr std::size_t kRows = 16, kStep = 4;
  std::size_t c = 0;
  for (; c + kStep <= columns; c += kStep, out += static_cast<std::ptrdiff_t>(kStep) * out_stride) {
    for (std::size_t row = 0; row < kRows; row += kStep) {
      const auto load = [&](std::size_t i) { return hn::LoadU(whole, words + (row + i) * stride + c); };
      const auto put = [&](auto low, auto high, std::ptrdiff_t column) {
        auto* const to = reinterpret_cast<std::uint8_t*>(out + column * out_stride) + row * sizeof(std::uint32_t);
        hn::StoreU(hn::BitCast(bytes, hn::InterleaveLower(pairs, low, high)), bytes, to);
        hn::StoreU(hn::BitCast(bytes, hn::InterleaveUpper(pairs, low, high)), bytes, to + out_stride);
      };
      const auto a = load(0), b = load(1), d = load(2), e = load(3);
      put(hn::BitCast(pairs, hn::InterleaveLower(whole, a, b)), hn::BitCast(pairs, hn::InterleaveLower(whole, d, e)),
          0);
      put(hn::BitCast(pairs, hn::InterleaveUpper(whole, a, b)), hn::BitCast(pairs, hn::InterleaveUpper(whole, d, e)),
          2);
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

HWY_EXPORT(AwqWords);
HWY_EXPORT(AwqColumns);

}  // namespace

std::size_t simd::awq_words(const AwqRows& rows, std::size_t columns, std::uint32_t* words) noexcept {
  return HWY_DYNAMIC_DISPATCH(AwqWords)(rows, columns, words);
}

std::size_t simd::awq_columns(const std::uint32_t* words, std::size_t stride, std::size_t columns, std::byte* out,
                              std::ptrdiff_t out_stride) noexcept {
  return HWY_DYNAMIC_DISPATCH(AwqColumns)(words, stride, columns, out, out_stride);
}

}  // namespace halfquad
#endif
