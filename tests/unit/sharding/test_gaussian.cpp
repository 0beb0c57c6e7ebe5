#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "kernels/decode.h"
#include "sharding/gaussian.h"

namespace halfquad {
namespace {

std::vector<float> draw(const GaussianSource& source, std::string_view name, std::uint64_t first, std::size_t count) {
  std::vector<float> out(count);
  source.fill(name, first, std::as_writable_bytes(std::span(out)));
  return out;
}

TEST(NormalQuantile, InvertsTheNormalDistribution) {
  for (const double p : {1e-6, 1e-3, 0.02, 0.0242, 0.0243, 0.1, 0.31, 0.69, 0.9, 0.9757, 0.9758, 0.999999}) {
    const double back = 0.5 * std::erfc(-normal_quantile(p) / std::sqrt(2.0));
    EXPECT_NEAR(back / p, 1.0, 1e-7) << p;
  }
  EXPECT_EQ(normal_quantile(0.5), 0.0);
}

TEST(GaussianSource, HasTheMomentsOfTheDistribution) {
  const std::vector<float> values = draw(GaussianSource(3, DType::kF32, 1.0F, 0.02F), "x", 0, 1 << 20);
  double sum = 0, square = 0, fourth = 0;
  for (const float value : values) {
    const double z = (static_cast<double>(value) - 1.0) / 0.02;
    sum += z;
    square += z * z;
    fourth += z * z * z * z;
  }
  const auto count = static_cast<double>(values.size());

  EXPECT_NEAR(sum / count, 0.0, 0.005);
  EXPECT_NEAR(square / count, 1.0, 0.01);
  EXPECT_NEAR(fourth / count, 3.0, 0.05);
}

TEST(GaussianSource, MakesTheSameElementsInAnyCut) {
  const GaussianSource source(3, DType::kF32, 0.0F, 1.0F);
  const std::vector<float> whole = draw(source, "x", 0, 103);
  std::vector<float> parts = draw(source, "x", 0, 40);
  const std::vector<float> rest = draw(source, "x", 40, 63);
  parts.insert(parts.end(), rest.begin(), rest.end());

  EXPECT_EQ(parts, whole);
}

TEST(GaussianSource, DependsOnSeedAndName) {
  const GaussianSource one(1, DType::kF32, 0.0F, 1.0F);
  const GaussianSource two(2, DType::kF32, 0.0F, 1.0F);

  EXPECT_NE(draw(one, "x", 0, 16), draw(two, "x", 0, 16));
  EXPECT_NE(draw(one, "x", 0, 16), draw(one, "y", 0, 16));
  EXPECT_NE(draw(one, "x", 0, 16), draw(one, "x", 16, 16));
}

TEST(GaussianSource, RoundsTheSameNumbersToNarrowTypes) {
  const std::vector<float> wide = draw(GaussianSource(1, DType::kF32, 0.0F, 1.0F), "x", 8, 64);
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    std::vector<std::uint16_t> narrow(64);
    GaussianSource(1, dtype, 0.0F, 1.0F).fill("x", 8, std::as_writable_bytes(std::span(narrow)));
    for (std::size_t i = 0; i < narrow.size(); ++i) {
      const float value = dtype == DType::kBF16 ? bf16_to_f32(narrow[i]) : f16_to_f32(narrow[i]);
      EXPECT_EQ(value, round_to(dtype, wide[i]));
    }
  }
}

// The bytes are a promise: benchmarks on different machines and versions read the same model.
TEST(GaussianSource, KeepsItsNumbers) {
  std::vector<std::uint32_t> bits(4);
  GaussianSource(1, DType::kF32, 0.0F, 1.0F).fill("x", 0, std::as_writable_bytes(std::span(bits)));
  EXPECT_EQ(bits, (std::vector<std::uint32_t>{0xBFE2BD9C, 0xBF95604D, 0x3E0CACE3, 0xBF12FDE1}));
}

}  // namespace
}  // namespace halfquad
