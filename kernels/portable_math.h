#pragma once

/// Elementary functions made of + - * / and the exact scaling by powers of two alone, in double: every machine and C
/// library computes the same bits. Errors are a few units of the last place of a double, far below the fp32 that
/// results are rounded to.
namespace halfquad::portable {

/// e^x; 0 and infinity beyond the range.
[[nodiscard]] double exp(double x) noexcept;
/// @pre x is positive, normal and finite.
[[nodiscard]] double log(double x) noexcept;
/// base^exponent. @pre base as for log().
[[nodiscard]] double pow(double base, double exponent) noexcept;

struct SinCos {
  double sin = 0, cos = 1;
};
/// @pre |x| < 2^19
[[nodiscard]] SinCos sin_cos(double x) noexcept;

/// x / (1 + e^-x)
[[nodiscard]] float silu(float x) noexcept;
/// 1 / (1 + e^-x)
[[nodiscard]] float sigmoid(float x) noexcept;
/// x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
[[nodiscard]] float gelu_tanh(float x) noexcept;

}  // namespace halfquad::portable
