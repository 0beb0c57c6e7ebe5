#include "kernels/float_grid.h"

#include <algorithm>
#include <bit>

#include "kernels/fp8.h"

namespace halfquad {
namespace {

constexpr float kLargestE2M1 = 6;
constexpr float kLargestE4M3 = 448;
// Larger ones would make scales whose inverse fp32 does not hold.
constexpr float kMostTensorScale = 0x1p100F;

constexpr int kLeastE4M3 = 1, kMostE4M3 = 0x7E;
// So that half the scale and its inverse are normal, and the largest weight finite.
constexpr int kLeastE8M0 = 2, kMostE8M0 = 252;
constexpr int kExponentOfLargest = 2;  // of 6, in the float format of the codes

// Bytes from the largest scale's. E4M3 has eight scales an octave. Smaller ones cut off the largest weights, which pays
// where these lie in columns that count little; larger ones leave codes unused.
constexpr std::array<int, 33> kE4M3Offsets = {0,   -1,  1,   -2,  2,   -3,  3,   -4,  4,   -5,  5,
                                              -6,  6,   -7,  7,   -8,  8,   -9,  -10, -11, -12, -13,
                                              -14, -15, -16, -17, -18, -19, -20, -21, -22, -23, -24};
constexpr std::array<int, 5> kE8M0Offsets = {0, 1, -1, -2, -3};

// Codes of E2M1 by magnitude, then as they are held.
constexpr std::array<std::uint8_t, 8> kSteps = {0, 1, 2, 3, 4, 6, 8, 12};

constexpr std::array<std::uint8_t, 16> codes_of_nibbles() {
  std::array<std::uint8_t, 16> codes{};
  for (std::size_t i = 0; i < kSteps.size(); ++i) {
    codes[i] = static_cast<std::uint8_t>(kFloatCodeZero + kSteps[i]);
    codes[i + kSteps.size()] = static_cast<std::uint8_t>(kFloatCodeZero - kSteps[i]);
  }
  return codes;
}
constexpr std::array<std::uint8_t, 16> kCodes = codes_of_nibbles();

// Zero is the positive one.
constexpr std::array<std::uint8_t, kLargestFloatCode + 1> nibbles_of_codes() {
  std::array<std::uint8_t, kLargestFloatCode + 1> nibbles{};
  for (std::size_t i = kCodes.size(); i-- > 0;) nibbles[kCodes[i]] = static_cast<std::uint8_t>(i);
  return nibbles;
}
constexpr auto kNibbles = nibbles_of_codes();

std::byte joined(std::uint8_t low, std::uint8_t high) noexcept {
  return static_cast<std::byte>(kNibbles[low] | kNibbles[high] << 4U);
}
std::uint8_t low_code(std::byte pair) noexcept { return kCodes[std::to_integer<std::size_t>(pair & std::byte{0xF})]; }
std::uint8_t high_code(std::byte pair) noexcept { return kCodes[std::to_integer<std::size_t>(pair >> 4U)]; }

// ggml reads E4M3 without its sign, and as zero what is no number.
float ggml_scale_of(const GgmlFloatBlocks& blocks, std::uint8_t byte) noexcept {
  constexpr std::uint8_t kMagnitude = 0x7F;
  if (blocks.grid == FloatGrid::kNvfp4) {
    byte &= kMagnitude;
    if (byte == kMagnitude) return 0;
  }
  return group_scale_of(blocks.grid, byte, blocks.tensor_scale);
}

}  // namespace

float tensor_scale_of(float largest) noexcept {
  if (!(largest > 0)) return 1;
  // Where the inverse is kept, its inverse is this very number: that holds for whatever is an inverse itself.
  return std::min(kMostTensorScale, 1 / (1 / (kLargestE4M3 * kLargestE2M1 / largest)));
}

float power_of_two_scale_of(float largest) noexcept {
  constexpr std::uint32_t kExponent = 0x7F80'0000;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(tensor_scale_of(largest)) & kExponent);
}

float group_scale_of(FloatGrid grid, std::uint8_t byte, float tensor_scale) noexcept {
  if (grid == FloatGrid::kNvfp4) return e4m3_to_f32(byte) / tensor_scale * 0.5F;
  return e8m0_to_f32(byte) * 0.5F;
}

std::uint8_t scale_byte_of(FloatGrid grid, float scale, float tensor_scale) noexcept {
  if (grid == FloatGrid::kNvfp4) return f32_to_e4m3(2 * scale * tensor_scale);
  const auto bits = std::bit_cast<std::uint32_t>(scale);
  constexpr std::uint32_t kLeastNormal = 0x0080'0000, kBetweenLowest = 0x0030'0000;
  if (bits < kLeastNormal) return bits < kBetweenLowest ? 0 : 1;
  return static_cast<std::uint8_t>(std::min(254U, (bits >> 23U) + (bits >> 22U & 1U) + 1));
}

FloatScales::FloatScales(FloatGrid of, float tensor)
    : grid(of),
      tensor_scale(tensor),
      lowest(of == FloatGrid::kNvfp4 ? kLeastE4M3 : kLeastE8M0),
      highest(of == FloatGrid::kNvfp4 ? kMostE4M3 : kMostE8M0),
      offsets(of == FloatGrid::kNvfp4 ? std::span<const int>(kE4M3Offsets) : kE8M0Offsets) {
  for (int byte = lowest; byte <= highest; ++byte) {
    const auto at = static_cast<std::size_t>(byte);
    scale[at] = group_scale_of(grid, static_cast<std::uint8_t>(byte), tensor_scale);
    inverse[at] = 1 / scale[at];
  }
}

int FloatScales::first_byte(float largest) const noexcept {
  const int exact = grid == FloatGrid::kNvfp4
                        ? f32_to_e4m3(tensor_scale * (largest / kLargestE2M1))
                        : static_cast<int>(std::bit_cast<std::uint32_t>(largest) >> 23U) - kExponentOfLargest;
  return std::clamp(exact, lowest, highest);
}

void pack_e2m1(const std::uint8_t* codes, std::int64_t count, std::byte* out) noexcept {
  for (std::int64_t i = 0; i < count; i += 2) *out++ = joined(codes[i], codes[i + 1]);
}

void unpack_e2m1(const std::byte* in, std::int64_t count, std::uint8_t* codes) noexcept {
  for (std::int64_t i = 0; i < count; i += 2, ++in) {
    codes[i] = low_code(*in);
    codes[i + 1] = high_code(*in);
  }
}

void pack_ggml_floats(const GgmlFloatBlocks& blocks, const FloatCodesView& in, std::byte* out) noexcept {
  const std::int64_t each = ggml_block_groups(blocks.grid);
  const std::int64_t half = group_size_of(blocks.grid) / 2;
  const std::uint8_t* codes = in.codes;
  for (std::int64_t group = 0; group < blocks.groups; group += each) {
    for (std::int64_t i = 0; i < each; ++i) {
      *out++ = static_cast<std::byte>(scale_byte_of(blocks.grid, in.scale[group + i], blocks.tensor_scale));
    }
    for (std::int64_t i = 0; i < each; ++i, codes += 2 * half) {
      for (std::int64_t k = 0; k < half; ++k) *out++ = joined(codes[k], codes[k + half]);
    }
  }
}

void unpack_ggml_floats(const GgmlFloatBlocks& blocks, const std::byte* in, const FloatCodes& out) noexcept {
  const std::int64_t each = ggml_block_groups(blocks.grid);
  const std::int64_t half = group_size_of(blocks.grid) / 2;
  std::uint8_t* codes = out.codes;
  for (std::int64_t group = 0; group < blocks.groups; group += each) {
    for (std::int64_t i = 0; i < each; ++i) {
      out.scale[group + i] = ggml_scale_of(blocks, std::to_integer<std::uint8_t>(*in++));
    }
    for (std::int64_t i = 0; i < each; ++i, codes += 2 * half) {
      for (std::int64_t k = 0; k < half; ++k, ++in) {
        codes[k] = low_code(*in);
        codes[k + half] = high_code(*in);
      }
    }
  }
}

}  // namespace halfquad
