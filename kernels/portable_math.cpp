#include "kernels/portable_math.h"

#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>

namespace halfquad::portable {
namespace {

// log 2 and pi/2 in parts, of which the first have so many zeros at the end that their products with the integers met
// here are exact.
constexpr double kLn2High = 0x1.62e42feep-1;
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
constexpr double kHalfPiHigh = 0x1.921fb544p+0;
constexpr double kHalfPiMiddle = 0x1.0b4611a6p-34;
constexpr double kHalfPiLow = 0x1.3198a2e037073p-69;

// Nearest integer, for |x| < 2^51: the sum has no room for a fraction.
constexpr double kRound = 0x1.8p52;
double nearest(double x) { return (x + kRound) - kRound; }

template <std::size_t kCount>
double polynomial(const std::array<double, kCount>& coefficients, double x) {
  double sum = coefficients[kCount - 1];
  for (std::size_t i = kCount - 1; i-- > 0;) sum = sum * x + coefficients[i];
  return sum;
}

/// 1 / (first + step i)! with alternating signs when `sign` is -1.
template <std::size_t kCount>
constexpr std::array<double, kCount> inverse_factorials(int first, int step, double sign) {
  std::array<double, kCount> all{};
  double factorial = 1;
  double sign_now = 1;
  int reached = 0;
  for (std::size_t i = 0; i < kCount; ++i) {
    while (reached < first + step * static_cast<int>(i)) factorial *= ++reached;
    all[i] = sign_now / factorial;
    sign_now *= sign;
  }
  return all;
}

// Taylor series up to terms below 2^-56 of the whole, |r| <= log(2)/2 and pi/4.
constexpr auto kExp = inverse_factorials<14>(0, 1, 1);
constexpr auto kSin = inverse_factorials<9>(1, 2, -1);
constexpr auto kCos = inverse_factorials<10>(0, 2, -1);
// atanh(s) / s in s^2, |s| <= 0.172.
constexpr std::array<double, 12> kAtanh = {1,        1.0 / 3,  1.0 / 5,  1.0 / 7,  1.0 / 9,  1.0 / 11,
                                           1.0 / 13, 1.0 / 15, 1.0 / 17, 1.0 / 19, 1.0 / 21, 1.0 / 23};

}  // namespace

double exp(double x) noexcept {
  if (!(x < 709.78)) return x >= 709.78 ? std::numeric_limits<double>::infinity() : x;
  if (x < -745.2) return 0;
  const double n = nearest(x * std::numbers::log2e);
  const double r = (x - n * kLn2High) - n * kLn2Low;
  return std::ldexp(polynomial(kExp, r), static_cast<int>(n));
}

double log(double x) noexcept {
  int exponent = 0;
  double m = std::frexp(x, &exponent);  // [1/2, 1)
  if (m < std::numbers::sqrt2 / 2) {
    m *= 2;
    --exponent;
  }
  const double s = (m - 1) / (m + 1);
  return exponent * kLn2High + (exponent * kLn2Low + 2 * s * polynomial(kAtanh, s * s));
}

double pow(double base, double exponent) noexcept { return exp(exponent * log(base)); }

SinCos sin_cos(double x) noexcept {
  const double n = nearest(x * (2 * std::numbers::inv_pi));
  const double r = ((x - n * kHalfPiHigh) - n * kHalfPiMiddle) - n * kHalfPiLow;
  const double sin = r * polynomial(kSin, r * r);
  const double cos = polynomial(kCos, r * r);
  switch (static_cast<long>(n) & 3) {
    case 0:
      return {sin, cos};
    case 1:
      return {cos, -sin};
    case 2:
      return {-sin, -cos};
    default:
      return {-cos, sin};
  }
}

float silu(float x) noexcept { return static_cast<float>(double{x} / (1 + exp(-double{x}))); }

float sigmoid(float x) noexcept { return static_cast<float>(1 / (1 + exp(-double{x}))); }

float gelu_tanh(float x) noexcept {
  const double wide = x;
  const double inner = std::numbers::sqrt2 * std::numbers::inv_sqrtpi * (wide + 0.044715 * wide * wide * wide);
  // (1 + tanh(t)) / 2 = 1 / (1 + e^-2t)
  return static_cast<float>(wide / (1 + exp(-2 * inner)));
}

}  // namespace halfquad::portable
