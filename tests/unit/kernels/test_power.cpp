#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/power.h"
#include "tests/support/golden_hqq.h"

namespace halfquad {
namespace {

double ulps_off(float a, const PowerExponent& exponent) {
  const double exact = std::pow(double{a}, double{exponent.c});
  int e = 0;
  std::frexp(exact, &e);
  return std::abs(double{power(a, exponent)} - exact) / std::ldexp(1.0, e - 24);
}

TEST(PowerExponent, SplitsTheExponentAsDocumented) {
  const PowerExponent exponent = power_exponent(0.7);

  EXPECT_EQ(exponent.c, -0x1.333334p-2F);
  EXPECT_EQ(exponent.chi, -0x1.334p-2F);
  EXPECT_EQ(exponent.clo, 0x1.998p-15F);
}

TEST(Power, EqualsTheVectorsBitForBit) {
  const auto vectors = test::read_golden_file(std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "hqq/power.safetensors");
  ASSERT_EQ(vectors.size(), 8U);
  for (const auto& [name, tensor] : vectors) {
    if (!name.ends_with("/a")) continue;
    const std::string group = name.substr(0, name.size() - 2);
    const PowerExponent exponent = power_exponent(std::stod(group.substr(1)));
    const std::vector<float> a = tensor.floats();
    const std::vector<float> y = vectors.at(group + "/y").floats();
    ASSERT_EQ(a.size(), y.size());

    for (std::size_t i = 0; i < a.size(); ++i) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(power(a[i], exponent)), std::bit_cast<std::uint32_t>(y[i]))
          << group << " of " << a[i];
    }
  }
}

TEST(Power, StaysWithinTwoUlps) {
  constexpr std::uint32_t kPrimeStep = 4099;
  const auto first = std::bit_cast<std::uint32_t>(std::numeric_limits<float>::min());
  const auto last = std::bit_cast<std::uint32_t>(std::numeric_limits<float>::max());
  for (const double p : {0.7, 0.5, 0.3, 0.1, 0.99}) {
    const PowerExponent exponent = power_exponent(p);
    double worst = 0;
    for (std::uint32_t bits = first; bits < last; bits += kPrimeStep) {
      worst = std::max(worst, ulps_off(std::bit_cast<float>(bits), exponent));
    }
    EXPECT_LE(worst, 2.0) << "p = " << p;
  }
}

}  // namespace
}  // namespace halfquad
