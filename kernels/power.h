#pragma once

namespace halfquad {

/// Constants of |e|^(p-1) as defined bit for bit by the canonical power function.
struct PowerExponent {
  float c = 0;    ///< fp32(p - 1)
  float chi = 0;  ///< rint(c * 4096) / 4096
  float clo = 0;  ///< c - chi
};
[[nodiscard]] PowerExponent power_exponent(double lp_norm) noexcept;

/// a^(p-1) for a positive normal `a` and 0.1 <= p < 1: individually rounded fp32 operations only.
[[nodiscard]] float power(float a, const PowerExponent& exponent) noexcept;

/// log2 polynomial, L0 first, and 2^f polynomial, E0 first.
inline constexpr float kLog2Poly[9] = {0x1.715474p+0F,  -0x1.71546ap-1F, 0x1.ec76f4p-2F,
                                       -0x1.7160e6p-2F, 0x1.268f78p-2F,  -0x1.e87ce2p-3F,
                                       0x1.bd3168p-3F,  -0x1.aeb382p-3F, 0x1.00d838p-3F};
inline constexpr float kExp2Poly[7] = {0x1p+0F,        0x1.62e430p-1F,  0x1.ebfbe2p-3F, 0x1.c6aec8p-5F,
                                       0x1.3b2994p-7F, 0x1.5f4a94p-10F, 0x1.449a9cp-13F};

}  // namespace halfquad
