#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/ggml_k_quants.h"
#include "kernels/k_quant_block.h"
#include "kernels/solver.h"
#include "runtime/error.h"
#include "tests/support/golden_hqq.h"
#include "tests/unit/kernels/random_groups.h"

namespace halfquad {
namespace {

using Bytes = std::vector<std::byte>;

constexpr GgmlKQuant kKinds[] = {GgmlKQuant::kQ2_K, GgmlKQuant::kQ3_K, GgmlKQuant::kQ4_K, GgmlKQuant::kQ5_K,
                                 GgmlKQuant::kQ6_K};

const test::GoldenFile& golden() {
  static const test::GoldenFile file =
      test::read_golden_file(std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "formats" / "k_quants.safetensors");
  return file;
}

std::string golden_name(GgmlKQuant kind, const std::string& what) { return std::string(name_of(kind)) + "." + what; }

Bytes quantize(const GgmlKQuantizer& quantizer, GgmlKQuant kind, const std::vector<float>& weights,
               const ColumnWeights& importance = {}) {
  Bytes blocks(weights.size() / 256 * static_cast<std::size_t>(block_bytes_of(kind)) + 1, std::byte{0xEE});
  quantizer.quantize(kind, weights.data(), static_cast<std::int64_t>(weights.size()), importance, blocks.data());
  EXPECT_EQ(blocks.back(), std::byte{0xEE});
  blocks.pop_back();
  return blocks;
}

std::vector<float> dequantize(GgmlKQuant kind, const Bytes& blocks) {
  std::vector<float> weights(blocks.size() / static_cast<std::size_t>(block_bytes_of(kind)) * 256);
  dequantize_k_quants(kind, blocks.data(), static_cast<std::int64_t>(weights.size()), weights.data());
  return weights;
}

TEST(GgmlKQuants, DecodeAsTheGoldens) {
  for (const GgmlKQuant kind : kKinds) {
    const std::vector<float> weights = dequantize(kind, golden().at(golden_name(kind, "blocks")).bytes);

    EXPECT_EQ(weights, golden().at(golden_name(kind, "decoded")).floats()) << name_of(kind);
  }
}

TEST(GgmlKQuants, PackWhatTheyUnpack) {
  for (const GgmlKQuant kind : kKinds) {
    const Bytes& blocks = golden().at(golden_name(kind, "blocks")).bytes;
    const auto bytes = static_cast<std::size_t>(block_bytes_of(kind));
    ASSERT_EQ(blocks.size(), 4 * bytes);
    for (std::size_t at = 0; at < blocks.size(); at += bytes) {
      KQuantBlock block;
      unpack_k_block(kind, blocks.data() + at, block);
      Bytes packed(bytes, std::byte{0xEE});

      pack_k_block(kind, block, packed.data());

      EXPECT_TRUE(std::equal(packed.begin(), packed.end(), blocks.begin() + static_cast<std::ptrdiff_t>(at)))
          << name_of(kind);
    }
  }
}

TEST(GgmlKQuants, PackScalesAndMinimaAsTheWorkedExample) {
  KQuantBlock block;
  block.sc = {17, 8, 32, 15, 63, 57, 60, 48};
  block.mn = {26, 12, 62, 3, 49, 55, 0, 57};
  Bytes packed(144);

  pack_k_block(GgmlKQuant::kQ4_K, block, packed.data());

  constexpr unsigned kWant[] = {0xd1, 0xc8, 0xe0, 0xcf, 0xda, 0xcc, 0x3e, 0xc3, 0x1f, 0x79, 0x0c, 0x90};
  for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(std::to_integer<unsigned>(packed[4 + i]), kWant[i]);
}

TEST(GgmlKQuants, MeasureAsTheReferenceSolverDoes) {
  std::mt19937_64 random(3);
  constexpr std::int64_t kGroups = 5;
  const test::RandomBlock block(random, {.groups = kGroups, .group_elems = 256}, DType::kF32,
                                test::Weights::kHeavyTails, 0.02);
  std::vector<float> weights(kGroups * 256);
  std::memcpy(weights.data(), block.block().data, weights.size() * sizeof(float));
  std::vector<std::uint8_t> codes(weights.size());
  std::vector<float> restored(weights.size());
  const std::vector<float> scale = {0.01F, 0.003F, 0.02F, 0.1F, 0.05F};
  const std::vector<float> zero = {7.3F, 1.1F, 2.0F, -3.0F, 0.7F};
  for (std::size_t i = 0; i < codes.size(); ++i) {
    codes[i] = static_cast<std::uint8_t>(random() % 16);
    restored[i] = (codes[i] - zero[i / 256]) * scale[i / 256];
  }
  ErrorSums want;
  make_reference_solver()->measure(block.block(), {codes.data(), scale.data(), zero.data()}, want);
  ErrorSums got;

  measure_k_quants(weights.data(), restored.data(), static_cast<std::int64_t>(weights.size()), {}, got);

  EXPECT_EQ(got.abs, want.abs);
  EXPECT_EQ(got.square, want.square);
  EXPECT_EQ(got.weight2, want.weight2);
  EXPECT_EQ(got.max_abs, want.max_abs);
}

/// Column weights over four powers of ten.
std::vector<float> random_importance(std::mt19937_64& random, std::int64_t cols) {
  std::uniform_real_distribution<double> exponent(-2, 2);
  std::vector<float> h;
  for (std::int64_t i = 0; i < cols; ++i) h.push_back(static_cast<float>(std::pow(10.0, exponent(random))));
  return h;
}

std::vector<float> heavy_weights(std::mt19937_64& random, std::int64_t super_blocks) {
  std::vector<float> weights;
  for (const double w :
       test::random_weights(random, {.groups = super_blocks, .group_elems = 256}, test::Weights::kHeavyTails, 0.02)) {
    weights.push_back(static_cast<float>(w));
  }
  return weights;
}

/// Weighted sum of squared errors, columns going round.
double weighted_error(const std::vector<float>& weights, const std::vector<float>& restored,
                      const std::vector<float>& h) {
  double sum = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    sum += h[i % h.size()] * std::pow(double{weights[i]} - restored[i], 2);
  }
  return sum;
}

TEST(GgmlKQuants, MeasureWeightedErrors) {
  std::mt19937_64 random(5);
  const std::vector<float> weights = heavy_weights(random, 6);
  const std::vector<float> restored = heavy_weights(random, 6);
  const std::vector<float> h = random_importance(random, 768);
  ErrorSums sums;

  measure_k_quants(weights.data(), restored.data(), 6 * 256, {h.data(), 768, 0}, sums);

  EXPECT_NEAR(sums.weighted_square.value() / weighted_error(weights, restored, h), 1, 1e-6);
  EXPECT_NEAR(sums.weighted_weight2.value() / weighted_error(weights, std::vector<float>(weights.size()), h), 1, 1e-6);
}

/// Every target that this CPU runs.
class GgmlKQuantizers : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<GgmlKQuantizer> quantizer_ = make_k_quantizer(GetParam());
};

TEST_P(GgmlKQuantizers, WriteTheGoldenBytes) {
  for (const GgmlKQuant kind : kKinds) {
    for (const std::string input : {"gauss", "tails", "shifted"}) {
      const Bytes blocks = quantize(*quantizer_, kind, golden().at(input).floats());

      EXPECT_TRUE(blocks == golden().at(golden_name(kind, input + ".encoded")).bytes) << name_of(kind) << ' ' << input;
    }
  }
}

TEST_P(GgmlKQuantizers, HaveNoLargerErrorThanLlamaCpp) {
  for (const GgmlKQuant kind : kKinds) {
    for (const std::string input : {"gauss", "tails", "shifted"}) {
      const std::vector<float> weights = golden().at(input).floats();
      const std::vector<float> theirs = golden().at(golden_name(kind, input + ".error")).floats();

      const std::vector<float> restored = dequantize(kind, quantize(*quantizer_, kind, weights));

      const std::size_t cols = weights.size() / theirs.size();
      for (std::size_t row = 0; row < theirs.size(); ++row) {
        double ours = 0;
        for (std::size_t i = row * cols; i < (row + 1) * cols; ++i)
          ours += std::pow(double{weights[i]} - restored[i], 2);
        EXPECT_LT(ours, theirs[row]) << name_of(kind) << ' ' << input << " row " << row;
        EXPECT_GT(ours, theirs[row] / 2.0);  // else the golden is of something else
      }
    }
  }
}

TEST_P(GgmlKQuantizers, FitTheColumnsThatCount) {
  std::mt19937_64 random(6);
  const std::vector<float> weights = heavy_weights(random, 24);
  const std::vector<float> h = random_importance(random, 768);
  const std::vector<float> ones(768, 1.0F);
  for (const GgmlKQuant kind : kKinds) {
    SCOPED_TRACE(name_of(kind));
    const Bytes plain = quantize(*quantizer_, kind, weights);
    const Bytes weighted = quantize(*quantizer_, kind, weights, {h.data(), 768, 0});

    EXPECT_TRUE(quantize(*quantizer_, kind, weights, {ones.data(), 768, 0}) == plain);
    const std::vector<float> by_all = dequantize(kind, plain);
    const std::vector<float> by_columns = dequantize(kind, weighted);
    EXPECT_LT(weighted_error(weights, by_columns, h), 0.8 * weighted_error(weights, by_all, h));
    EXPECT_LT(weighted_error(weights, by_all, ones), 0.9 * weighted_error(weights, by_columns, ones));
    // From a column in the middle of the row on.
    const std::vector<float> second(weights.begin() + 256, weights.begin() + 512);
    const auto bytes = static_cast<std::ptrdiff_t>(block_bytes_of(kind));
    EXPECT_TRUE(quantize(*quantizer_, kind, second, {h.data(), 768, 256}) ==
                Bytes(weighted.begin() + bytes, weighted.begin() + 2 * bytes));
  }
}

TEST_P(GgmlKQuantizers, GiveTheSameBytesForOddWeights) {
  const auto other = make_k_quantizer(simd_targets().back());
  std::mt19937_64 random(1);
  for (int i = 0; i < 40; ++i) {
    const auto weights_kind = static_cast<test::Weights>(i % test::kWeightsKinds);
    const std::vector<double> drawn =
        test::random_weights(random, {.groups = 4, .group_elems = 256}, weights_kind, 0.1);
    std::vector<float> weights;
    for (const double w : drawn) weights.push_back(static_cast<float>(i % 3 == 0 && random() % 4 != 0 ? 0.0 : w));
    for (const GgmlKQuant kind : kKinds) {
      SCOPED_TRACE(std::string(name_of(kind)) + " " + test::name_of(weights_kind));
      const Bytes blocks = quantize(*quantizer_, kind, weights);

      EXPECT_TRUE(blocks == quantize(*other, kind, weights));
      const std::vector<float> h = random_importance(random, 512);
      EXPECT_TRUE(quantize(*quantizer_, kind, weights, {h.data(), 512, 256}) ==
                  quantize(*other, kind, weights, {h.data(), 512, 256}));
      for (const float w : dequantize(kind, blocks)) ASSERT_TRUE(std::isfinite(w));
    }
  }
}

TEST_P(GgmlKQuantizers, RestoreZerosAndConstantsOfEitherSign) {
  for (const GgmlKQuant kind : kKinds) {
    for (const float value : {0.0F, 1.0F, -1.0F, 3e-5F, -3e-5F, 4e-7F, -4e-7F}) {
      const std::vector<float> weights(256, value);

      const std::vector<float> restored = dequantize(kind, quantize(*quantizer_, kind, weights));

      const double step = std::abs(value) < 1e-6F   ? 0.15
                          : std::abs(value) < 1e-3F ? 0.02
                                                    : 0.001;  // fp16 has few numbers down there
      for (const float w : restored) ASSERT_NEAR(w, value, step * std::abs(value)) << name_of(kind);
    }
  }
}

TEST_P(GgmlKQuantizers, CutOffWhatFp16CannotHold) {
  std::vector<float> weights(256, 1e9F);
  for (std::size_t i = 0; i < weights.size(); i += 2) weights[i] = -1e3F;
  for (const GgmlKQuant kind : kKinds) {
    const std::vector<float> restored = dequantize(kind, quantize(*quantizer_, kind, weights));

    EXPECT_GT(restored[1], 1e6F) << name_of(kind);
    for (const float w : restored) ASSERT_TRUE(std::isfinite(w));
  }
}

TEST_P(GgmlKQuantizers, FindAGridThatFitsWeightsSmallerThanFp16Steps) {
  std::mt19937_64 random(2);
  std::normal_distribution<double> gauss;
  std::vector<float> weights(1024);
  for (float& w : weights) w = static_cast<float>(1e-5 * gauss(random));
  for (const GgmlKQuant kind : kKinds) {
    const std::vector<float> restored = dequantize(kind, quantize(*quantizer_, kind, weights));

    double error = 0;
    double all = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      error += std::pow(double{weights[i]} - restored[i], 2);
      all += std::pow(weights[i], 2);
    }
    EXPECT_LT(error / all, kind == GgmlKQuant::kQ2_K ? 0.09 : 0.03) << name_of(kind);
  }
}

std::string test_name(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Targets, GgmlKQuantizers, testing::ValuesIn(simd_targets()), test_name);

TEST(GgmlKQuantizers, RefuseATargetThatIsNotThere) { EXPECT_THROW((void)make_k_quantizer("PDP11"), Error); }

}  // namespace
}  // namespace halfquad
