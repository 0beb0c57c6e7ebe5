#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/decode.h"
#include "kernels/fp8.h"
#include "tests/support/golden_hqq.h"

namespace halfquad {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

/// Equal in value and sign, or both NaN.
void expect_same(float actual, double wanted, int code) {
  if (std::isnan(wanted)) {
    EXPECT_TRUE(std::isnan(actual)) << code;
  } else {
    EXPECT_EQ(double{actual}, wanted) << code;
    EXPECT_EQ(std::signbit(actual), std::signbit(wanted)) << code;
  }
}

/// sign, exponent, fraction by the definition; the meaning of the highest exponent is the caller's.
double number(int code, int fraction_bits, int bias) {
  const int exponent = (code & 0x7F) >> fraction_bits;
  const int fraction = code & ((1 << fraction_bits) - 1);
  const double significand = (exponent == 0 ? 0.0 : 1.0) + std::ldexp(fraction, -fraction_bits);
  return ((code & 0x80) != 0 ? -1 : 1) * std::ldexp(significand, (exponent == 0 ? 1 : exponent) - bias);
}

TEST(Fp8, DecodesEveryE4M3CodeByTheDefinition) {
  for (int code = 0; code < 256; ++code) {
    const double wanted = (code & 0x7F) == 0x7F ? std::nan("") : number(code, 3, 7);
    expect_same(e4m3_to_f32(static_cast<std::uint8_t>(code)), wanted, code);
  }
  EXPECT_EQ(e4m3_to_f32(0x7E), 448.0F);
  EXPECT_EQ(e4m3_to_f32(0x01), 0x1p-9F);
}

TEST(Fp8, DecodesEveryE5M2CodeByTheDefinition) {
  for (int code = 0; code < 256; ++code) {
    double wanted = number(code, 2, 15);
    if ((code & 0x7C) == 0x7C) wanted = (code & 3) != 0 ? std::nan("") : ((code & 0x80) != 0 ? -kInf : kInf);
    expect_same(e5m2_to_f32(static_cast<std::uint8_t>(code)), wanted, code);
    // Half of an F16, cut off.
    expect_same(e5m2_to_f32(static_cast<std::uint8_t>(code)), f16_to_f32(static_cast<std::uint16_t>(code << 8)), code);
  }
  EXPECT_EQ(e5m2_to_f32(0x7B), 57344.0F);
}

TEST(Fp8, DecodesEveryE8M0CodeByTheDefinition) {
  for (int code = 0; code < 255; ++code) {
    expect_same(e8m0_to_f32(static_cast<std::uint8_t>(code)), std::ldexp(1.0, code - 127), code);
  }
  EXPECT_TRUE(std::isnan(e8m0_to_f32(255)));
}

TEST(Fp8, EncodesTheNearestE4M3Code) {
  for (int code = 0; code < 256; ++code) {
    const float value = e4m3_to_f32(static_cast<std::uint8_t>(code));
    EXPECT_EQ(f32_to_e4m3(value), code) << value;
    if ((code & 0x7F) >= 0x7E) continue;
    const float next = e4m3_to_f32(static_cast<std::uint8_t>(code + 1));
    const float middle = (value + next) / 2;
    EXPECT_EQ(f32_to_e4m3(middle), code % 2 == 0 ? code : code + 1) << middle;
    EXPECT_EQ(f32_to_e4m3(std::nextafter(middle, value)), code) << middle;
    EXPECT_EQ(f32_to_e4m3(std::nextafter(middle, next)), code + 1) << middle;
  }
  EXPECT_EQ(f32_to_e4m3(1e9F), 0x7E);
  EXPECT_EQ(f32_to_e4m3(-kInf), 0xFE);
  EXPECT_EQ(f32_to_e4m3(std::numeric_limits<float>::quiet_NaN()), 0x7F);
  EXPECT_EQ(f32_to_e4m3(1e-30F), 0);
}

TEST(Fp8, DecodesStretchesOfAnyKnownDtype) {
  const std::vector<std::byte> codes = {std::byte{0x38}, std::byte{0xC0}, std::byte{0x7F}};
  std::vector<float> out(3);

  decode_narrow_to_f32(codes.data(), DType::kF8E4M3, 2, out.data());
  EXPECT_EQ(out, (std::vector<float>{1.0F, -2.0F, 0.0F}));
  decode_narrow_to_f32(codes.data(), DType::kF8E5M2, 2, out.data());
  EXPECT_EQ(out, (std::vector<float>{0.5F, -2.0F, 0.0F}));
  decode_narrow_to_f32(codes.data() + 2, DType::kF8E8M0, 1, out.data());
  EXPECT_EQ(out[0], 1.0F);
  decode_narrow_to_f32(codes.data(), DType::kBF16, 1, out.data());
  EXPECT_EQ(out[0], bf16_to_f32(0xC038)) << "as decode_to_f32() does";
  EXPECT_TRUE(is_narrow_source(DType::kF8E8M0) && is_narrow_source(DType::kBF16));
  EXPECT_FALSE(is_narrow_source(DType::kF8E4M3Fnuz) || is_narrow_source(DType::kI8));
}

// Both within a block and across rows and lines of the grid.
TEST(Fp8, RunsThatBeginAndEndAnywhereAreTheRowsElements) {
  constexpr std::int64_t kRows = 13, kCols = 21;
  std::vector<std::byte> codes;
  for (int i = 0; i < kRows * kCols; ++i) codes.push_back(static_cast<std::byte>(i * 37 % 127));
  std::vector<float> scales;
  for (int i = 0; i < 4 * 3; ++i) scales.push_back(1.0F + static_cast<float>(i) / 7);
  const auto* const grid = reinterpret_cast<const std::byte*>(scales.data());
  std::vector<float> all(kRows * kCols);
  decode_fp8_rows(codes.data(), DType::kF8E4M3, {0, kRows, kCols}, {grid, DType::kF32, 4, 8}, all.data());

  for (const std::int64_t first : {0, 5, 21, 88, 120, 200}) {
    for (const std::int64_t count : {0, 1, 3, 16, 22, 73}) {
      const std::int64_t row = first / kCols;
      std::vector<float> out(static_cast<std::size_t>(count));

      decode_fp8_run(codes.data() + first, DType::kF8E4M3, {row, first % kCols, count, kCols},
                     {grid + row / 4 * 3 * 4, DType::kF32, 4, 8}, out.data());

      EXPECT_EQ(out, std::vector<float>(all.begin() + first, all.begin() + first + count)) << first << " " << count;
    }
  }
}

class Fp8Goldens : public testing::Test {
 protected:
  static test::GoldenFile read(const std::string& name) {
    return test::read_golden_file(std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "sources" / name);
  }
};

/// Decodes the rows from `first` on and compares them with the golden's.
void expect_rows(const test::GoldenTensor& weight, const test::GoldenTensor& scale, const test::GoldenTensor& wanted,
                 std::int64_t first, std::int64_t block_rows, std::int64_t block_cols) {
  const std::int64_t cols = weight.shape[1];
  const std::int64_t lines = (cols + block_cols - 1) / block_cols;
  const MatrixRows rows{first, weight.shape[0] - first, cols};
  const ScaleGrid grid{scale.bytes.data() + first / block_rows * lines * bytes_of(scale.dtype), scale.dtype, block_rows,
                       block_cols};
  std::vector<float> out(static_cast<std::size_t>(rows.count * cols));

  decode_fp8_rows(weight.bytes.data() + first * cols, weight.dtype, rows, grid, out.data());

  const std::vector<float> all = wanted.floats();
  EXPECT_EQ(out, std::vector<float>(all.begin() + first * cols, all.end()));
}

TEST_F(Fp8Goldens, BlocksOfScalesAreMetExactlyFromAnyRowOn) {
  const auto weights = read("fp8_block/model-00001-of-00002.safetensors");
  const auto scales = read("fp8_block/model-00002-of-00002.safetensors");
  const auto wanted = read("fp8_block_expected.safetensors");
  for (const std::string module :
       {"model.layers.0.mlp.gate_proj", "model.layers.0.mlp.experts.0.down_proj", "model.layers.1.eh_proj"}) {
    for (const std::int64_t first : {0, 1, 127, 128, 129}) {
      SCOPED_TRACE(module + " from row " + std::to_string(first));
      expect_rows(weights.at(module + ".weight"), scales.at(module + ".weight_scale_inv"),
                  wanted.at(module + ".weight"), first, 128, 128);
    }
  }
}

TEST_F(Fp8Goldens, ScalesOfRowsAndOfMatricesAreMetExactly) {
  const auto weights = read("fp8_channel/model-00001-of-00002.safetensors");
  const auto scales = read("fp8_channel/model-00002-of-00002.safetensors");
  const auto wanted = read("fp8_channel_expected.safetensors");
  const std::string prefix = "model.layers.0.self_attn.";
  for (const std::string proj : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
    SCOPED_TRACE(proj);
    const std::int64_t block_rows = proj == "q_proj" || proj == "k_proj" ? 1 : 6;
    for (const std::int64_t first : {0, 2}) {
      expect_rows(weights.at(prefix + proj + ".weight"), scales.at(prefix + proj + ".weight_scale"),
                  wanted.at(prefix + proj + ".weight"), first, block_rows, 10);
    }
  }
}

}  // namespace
}  // namespace halfquad
