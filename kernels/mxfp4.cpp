#include "kernels/mxfp4.h"

#include <array>
#include <cmath>

#include "kernels/fp8.h"

namespace halfquad {
namespace {

constexpr std::array<float, 16> kE2M1 = {0.0F,  0.5F,  1.0F,  1.5F,  2.0F,  3.0F,  4.0F,  6.0F,
                                         -0.0F, -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F};

}  // namespace

float e2m1_to_f32(std::uint8_t code) noexcept { return kE2M1[code]; }

std::uint8_t f32_to_e2m1(float value) noexcept {
  const float magnitude = std::fabs(value);
  // Between neighbours; one whose lower neighbour is even belongs to it.
  const int code = (magnitude > 0.25F) + (magnitude >= 0.75F) + (magnitude > 1.25F) + (magnitude >= 1.75F) +
                   (magnitude > 2.5F) + (magnitude >= 3.5F) + (magnitude > 5.0F);
  return static_cast<std::uint8_t>(code | (std::signbit(value) ? 8 : 0));
}

void decode_mxfp4(const std::byte* codes, const std::byte* scales, std::int64_t blocks, float* out) noexcept {
  for (std::int64_t block = 0; block < blocks; ++block) {
    const float scale = e8m0_to_f32(std::to_integer<std::uint8_t>(scales[block]));
    for (std::int64_t i = 0; i < kMxfp4BlockBytes; ++i) {
      const auto pair = std::to_integer<std::size_t>(codes[i]);
      out[2 * i] = kE2M1[pair & 0xFU] * scale;
      out[2 * i + 1] = kE2M1[pair >> 4U] * scale;
    }
    codes += kMxfp4BlockBytes;
    out += kMxfp4Block;
  }
}

void decode_ggml_mxfp4(const std::byte* in, std::int64_t blocks, float* out) noexcept {
  for (std::int64_t block = 0; block < blocks; ++block) {
    const float scale = e8m0_to_f32(std::to_integer<std::uint8_t>(*in++));
    for (std::int64_t i = 0; i < kMxfp4BlockBytes; ++i) {
      const auto pair = std::to_integer<std::size_t>(*in++);
      out[i] = kE2M1[pair & 0xFU] * scale;
      out[i + kMxfp4BlockBytes] = kE2M1[pair >> 4U] * scale;
    }
    out += kMxfp4Block;
  }
}

}  // namespace halfquad
