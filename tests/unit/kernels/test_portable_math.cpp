// Elementary functions against those of the C library.
#include <algorithm>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "kernels/portable_math.h"

namespace halfquad {
namespace {

constexpr double kUlp = std::numeric_limits<double>::epsilon();

TEST(PortableMath, ExponentialsAgreeWithTheLibrary) {
  for (double x = -700; x < 700; x += 0.37) {
    EXPECT_NEAR(portable::exp(x) / std::exp(x), 1, 4 * kUlp) << x;
  }
  EXPECT_EQ(portable::exp(0), 1);
  EXPECT_EQ(portable::exp(-800), 0);
  EXPECT_TRUE(std::isinf(portable::exp(800)));
  EXPECT_TRUE(std::isnan(portable::exp(std::nan(""))));
}

TEST(PortableMath, LogarithmsAndPowersAgreeWithTheLibrary) {
  for (double x = 1e-9; x < 1e12; x *= 1.13) {
    EXPECT_NEAR(portable::log(x), std::log(x), 4 * kUlp * std::max(1.0, std::abs(std::log(x)))) << x;
    EXPECT_NEAR(portable::pow(x, -0.73) / std::pow(x, -0.73), 1, 100 * kUlp) << x;
  }
  EXPECT_EQ(portable::log(1), 0);
}

TEST(PortableMath, SinesAndCosinesAgreeWithTheLibrary) {
  for (double x = -9; x < 9; x += 0.0137) {
    EXPECT_NEAR(portable::sin_cos(x).sin, std::sin(x), 2 * kUlp) << x;
    EXPECT_NEAR(portable::sin_cos(x).cos, std::cos(x), 2 * kUlp) << x;
  }
  for (const double x : {100.0, 4095.0, 32767.0, 500000.0}) {
    EXPECT_NEAR(portable::sin_cos(x).sin, std::sin(x), 4 * kUlp) << x;
    EXPECT_NEAR(portable::sin_cos(x).cos, std::cos(x), 4 * kUlp) << x;
  }
}

TEST(PortableMath, ActivationsAgreeWithTheirFormulas) {
  for (float x = -30; x < 30; x += 0.173F) {
    const double wide = x;
    const double inner = std::sqrt(2 / M_PI) * (wide + 0.044715 * wide * wide * wide);
    EXPECT_NEAR(portable::silu(x), wide / (1 + std::exp(-wide)), 1e-6 * std::abs(wide)) << x;
    EXPECT_NEAR(portable::sigmoid(x), 1 / (1 + std::exp(-wide)), 1e-7) << x;
    EXPECT_NEAR(portable::gelu_tanh(x), wide / 2 * (1 + std::tanh(inner)), 1e-6 * std::abs(wide)) << x;
  }
}

}  // namespace
}  // namespace halfquad
