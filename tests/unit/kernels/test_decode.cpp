#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/decode.h"

namespace halfquad {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Layout {
  int fraction_bits;
  int exponent_bits;
};
constexpr Layout kF16 = {10, 5};
constexpr Layout kBF16 = {7, 8};

/// What the 16 bits mean, by the definition of the format.
long double meaning(std::uint16_t bits, Layout layout) {
  const int bias = (1 << (layout.exponent_bits - 1)) - 1;
  const int exponent = (bits >> layout.fraction_bits) & ((1 << layout.exponent_bits) - 1);
  const int fraction = bits & ((1 << layout.fraction_bits) - 1);
  const long double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == (1 << layout.exponent_bits) - 1) {
    return fraction != 0 ? std::numeric_limits<long double>::quiet_NaN()
                         : sign * std::numeric_limits<long double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(static_cast<long double>(fraction), 1 - bias - layout.fraction_bits);
  return sign * std::ldexp(static_cast<long double>(fraction + (1 << layout.fraction_bits)),
                           exponent - bias - layout.fraction_bits);
}

/// `value` rounded to the format by search: the nearest of all its numbers, ties to the even pattern.
std::uint16_t nearest(float value, Layout layout) {
  const auto infinity = static_cast<std::uint16_t>(((1 << layout.exponent_bits) - 1) << layout.fraction_bits);
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const long double magnitude = std::abs(static_cast<long double>(value));
  std::uint16_t low = 0;
  std::uint16_t high = infinity;
  while (high - low > 1) {
    const auto middle = static_cast<std::uint16_t>((low + high) / 2);
    (meaning(middle, layout) <= magnitude ? low : high) = middle;
  }
  // Infinity stands where the next number would be.
  const long double below = meaning(low, layout);
  const long double spacing = below - meaning(static_cast<std::uint16_t>(low - 1), layout);
  const long double above = high == infinity ? below + spacing : meaning(high, layout);
  const long double down = magnitude - below;
  const long double up = above - magnitude;
  const bool take_low = down < up || (down == up && low % 2 == 0);
  return static_cast<std::uint16_t>(sign | (take_low ? low : high));
}

void expect_exact(float got, std::uint16_t bits, Layout layout) {
  const long double want = meaning(bits, layout);
  if (std::isnan(want)) {
    ASSERT_TRUE(std::isnan(got)) << bits;
    return;
  }
  ASSERT_EQ(static_cast<long double>(got), want) << bits;
  ASSERT_EQ(std::signbit(got), (bits & 0x8000) != 0) << bits;
}

/// Floats around every number of the format and its midpoints, and random ones.
std::vector<float> interesting(Layout layout) {
  std::vector<float> out = {0.0F, -0.0F, std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::max()};
  const int infinity = ((1 << layout.exponent_bits) - 1) << layout.fraction_bits;
  for (int bits = 0; bits < infinity; bits += 3) {
    const auto a = static_cast<float>(meaning(static_cast<std::uint16_t>(bits), layout));
    const auto b = static_cast<float>(meaning(static_cast<std::uint16_t>(bits + 1), layout));
    const float middle = std::isfinite(b) ? a / 2 + b / 2 : a;
    for (const float value : {a, middle, std::nextafter(middle, kInf), std::nextafter(middle, 0.0F)}) {
      out.push_back(value);
      out.push_back(-value);
    }
  }
  std::mt19937 random(3);
  for (int i = 0; i < 50000; ++i) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (std::isfinite(value)) out.push_back(value);
  }
  return out;
}

TEST(F16, DecodesEveryPatternExactly) {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    expect_exact(f16_to_f32(static_cast<std::uint16_t>(bits)), static_cast<std::uint16_t>(bits), kF16);
  }
}

TEST(BF16, DecodesEveryPatternExactly) {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    expect_exact(bf16_to_f32(static_cast<std::uint16_t>(bits)), static_cast<std::uint16_t>(bits), kBF16);
  }
}

TEST(F16, RoundsToTheNearestEven) {
  for (const float value : interesting(kF16)) ASSERT_EQ(f32_to_f16(value), nearest(value, kF16)) << value;
}

TEST(BF16, RoundsToTheNearestEven) {
  for (const float value : interesting(kBF16)) ASSERT_EQ(f32_to_bf16(value), nearest(value, kBF16)) << value;
}

TEST(F16, OverflowsToInfinity) {
  EXPECT_EQ(f32_to_f16(65504.0F), 0x7BFF);
  EXPECT_EQ(f32_to_f16(65519.996F), 0x7BFF);
  EXPECT_EQ(f32_to_f16(65520.0F), 0x7C00);
  EXPECT_EQ(f32_to_f16(-1e30F), 0xFC00);
  EXPECT_EQ(f32_to_f16(kInf), 0x7C00);
}

TEST(F16AndBF16, KeepNan) {
  for (const std::uint32_t bits : {0x7F80'0001U, 0x7FC0'0000U, 0xFF80'0001U, 0x7FFF'FFFFU, 0xFFFF'FFFFU}) {
    const auto nan = std::bit_cast<float>(bits);
    EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(nan)))) << bits;
    EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(nan)))) << bits;
  }
}

TEST(RoundTo, RoundsOnceToTheDtype) {
  EXPECT_EQ(round_to(DType::kF32, 0.1F), 0.1F);
  EXPECT_EQ(round_to(DType::kF16, 0.1F), 0x1.998p-4F);
  EXPECT_EQ(round_to(DType::kBF16, 0.1F), 0x1.9ap-4F);
}

// Many at a time, by conversion instructions where the CPU has them: to the bit what one by one gives, of NaNs too.
TEST(EncodeFromF32, RoundsManyAsOneByOne) {
  std::vector<float> values = interesting(kF16);
  for (const std::uint32_t bits :
       {0x7F80'0001U, 0x7FC0'1234U, 0xFF80'2000U, 0x7FFF'FFFFU, 0xFFFF'FFFFU, 0x0000'0001U}) {
    values.push_back(std::bit_cast<float>(bits));
  }
  values.insert(values.end(), {kInf, -kInf, 65520.0F, -0.0F, 0x1p-25F, 0x1.8p-24F});
  std::mt19937 random(1);
  while (values.size() < 100'003) values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  for (const std::size_t skipped : {0U, 1U, 99'990U}) {
    const std::span<const float> rest = std::span(values).subspan(skipped);
    std::vector<std::byte> stored(1 + rest.size() * 2);

    encode_from_f32(rest.data(), DType::kF16, static_cast<std::int64_t>(rest.size()), stored.data() + 1);

    for (std::size_t i = 0; i < rest.size(); ++i) {
      std::uint16_t got = 0;
      std::memcpy(&got, stored.data() + 1 + 2 * i, sizeof got);
      ASSERT_EQ(got, f32_to_f16(rest[i])) << std::bit_cast<std::uint32_t>(rest[i]);
    }
  }
}

template <class T>
std::vector<std::byte> misaligned(const std::vector<T>& values) {
  std::vector<std::byte> out(values.size() * sizeof(T) + 1);
  std::memcpy(out.data() + 1, values.data(), values.size() * sizeof(T));
  return out;
}

TEST(DecodeToF32, ReadsMisalignedSourcesOfEveryDtype) {
  const std::vector<float> want = {1.5F, -2.0F, 0.0F, 0x1p-14F, 3.0F};
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    std::vector<std::byte> stored(1 + want.size() * 4);
    encode_from_f32(want.data(), dtype, 5, stored.data() + 1);
    std::vector<float> got(5);

    decode_to_f32(stored.data() + 1, dtype, 5, got.data());

    EXPECT_EQ(got, want) << name_of(dtype);
  }
}

TEST(DecodeToF32, RoundsF64Once) {
  const std::vector<std::byte> stored = misaligned(std::vector<double>{0.1, 1e39, -1e-300});
  std::vector<float> got(3);

  decode_to_f32(stored.data() + 1, DType::kF64, 3, got.data());

  EXPECT_EQ(got[0], 0.1F);
  EXPECT_EQ(got[1], kInf);
  EXPECT_EQ(got[2], -0.0F);
}

TEST(FindNonfinite, NamesTheFirstOneWhereverItIs) {
  std::vector<float> values(10000, 1.0F);
  values[9999] = kNan;
  for (const std::int64_t first : {9999, 9000, 4097, 4096, 4095, 0}) {
    values[static_cast<std::size_t>(first)] = first % 2 == 0 ? kNan : -kInf;

    EXPECT_EQ(find_nonfinite(reinterpret_cast<const std::byte*>(values.data()), DType::kF32, 10000), first);
  }
}

TEST(FindNonfinite, FindsNothingAmongFiniteWeights) {
  const std::vector<float> values = {0.0F, std::numeric_limits<float>::max(), -1.0F};

  EXPECT_FALSE(find_nonfinite(reinterpret_cast<const std::byte*>(values.data()), DType::kF32, 3));
  EXPECT_FALSE(find_nonfinite(nullptr, DType::kF32, 0));
}

TEST(FindNonfinite, CountsAnF64BeyondF32) {
  const std::vector<double> values = {1e38, 1e39};

  EXPECT_EQ(find_nonfinite(reinterpret_cast<const std::byte*>(values.data()), DType::kF64, 2), 1);
}

TEST(ZeroNonfinite, ReplacesWhatItCounts) {
  std::vector<std::uint16_t> values = {0x3C00, 0x7C00, 0xFC00, 0x7E01, 0xBC00};
  auto* const data = reinterpret_cast<std::byte*>(values.data());

  EXPECT_EQ(zero_nonfinite(data, DType::kF16, 5), 3);

  EXPECT_EQ(values, (std::vector<std::uint16_t>{0x3C00, 0, 0, 0, 0xBC00}));
}

}  // namespace
}  // namespace halfquad
