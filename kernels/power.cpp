#include "kernels/power.h"

#include <bit>
#include <cmath>
#include <cstdint>

namespace halfquad {

PowerExponent power_exponent(double lp_norm) noexcept {
  const auto c = static_cast<float>(lp_norm - 1);
  const float chi = std::nearbyint(c * 4096.0F) * (1.0F / 4096.0F);
  return {.c = c, .chi = chi, .clo = c - chi};
}

float power(float a, const PowerExponent& exponent) noexcept {
  constexpr std::int32_t kSqrtHalf = 0x3F3504F3;  // the float nearest sqrt(1/2)
  constexpr float kRound = 12582912.0F;           // 1.5 * 2^23: adding and subtracting it rounds to an integer
  const auto i = std::bit_cast<std::int32_t>(a);
  const std::int32_t k = (i - kSqrtHalf) >> 23;
  const float g = std::bit_cast<float>(i - k * (1 << 23)) - 1.0F;
  float r = kLog2Poly[8];
  for (int j = 7; j >= 0; --j) {
    r = r * g;
    r = r + kLog2Poly[j];
  }
  const float log2_m = g * r;

  const auto kf = static_cast<float>(k);
  const float t = exponent.chi * kf;  // exact: chi has 12 fraction bits
  float u = exponent.c * log2_m;
  const float v = exponent.clo * kf;
  u = u + v;
  const float w = t + u;
  const float n = (w + kRound) - kRound;
  float f = t - n;
  f = f + u;

  float e = kExp2Poly[6];
  for (int j = 5; j >= 0; --j) {
    e = e * f;
    e = e + kExp2Poly[j];
  }
  return std::bit_cast<float>(std::bit_cast<std::int32_t>(e) + static_cast<std::int32_t>(n) * (1 << 23));
}

}  // namespace halfquad
