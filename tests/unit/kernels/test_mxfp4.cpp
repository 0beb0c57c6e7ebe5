#include <cmath>
#include <cstdint>
#include <filesystem>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/mxfp4.h"
#include "tests/support/golden_hqq.h"

namespace halfquad {
namespace {

TEST(Mxfp4, DecodesEveryCodeByTheDefinition) {
  for (int code = 0; code < 16; ++code) {
    const int exponent = (code >> 1) & 3;
    const double significand = (exponent == 0 ? 0.0 : 1.0) + 0.5 * (code & 1);
    const double wanted = ((code & 8) != 0 ? -1 : 1) * std::ldexp(significand, (exponent == 0 ? 1 : exponent) - 1);
    const float actual = e2m1_to_f32(static_cast<std::uint8_t>(code));
    EXPECT_EQ(double{actual}, wanted) << code;
    EXPECT_EQ(std::signbit(actual), std::signbit(wanted)) << code;
  }
}

TEST(Mxfp4, EncodesTheNearestCode) {
  for (int code = 0; code < 16; ++code) {
    const float value = e2m1_to_f32(static_cast<std::uint8_t>(code));
    EXPECT_EQ(f32_to_e2m1(value), code);
    if (code % 8 == 7) continue;
    const float next = e2m1_to_f32(static_cast<std::uint8_t>(code + 1));
    const float middle = (value + next) / 2;
    EXPECT_EQ(f32_to_e2m1(middle), code % 2 == 0 ? code : code + 1) << middle;
    EXPECT_EQ(f32_to_e2m1(std::nextafter(middle, value)), code) << middle;
    EXPECT_EQ(f32_to_e2m1(std::nextafter(middle, next)), code + 1) << middle;
  }
  EXPECT_EQ(f32_to_e2m1(1e9F), 7);
  EXPECT_EQ(f32_to_e2m1(-6.5F), 15);
}

TEST(Mxfp4, LowNibblesComeFirstAndEveryBlockHasItsScale) {
  std::vector<std::byte> codes(2 * kMxfp4BlockBytes, std::byte{0});
  codes[0] = std::byte{0x21};   // .5, 1
  codes[15] = std::byte{0xF7};  // 6, -6
  codes[16] = std::byte{0x03};  // 1.5
  const std::vector<std::byte> scales = {std::byte{127}, std::byte{130}};
  std::vector<float> out(2 * kMxfp4Block, 99.0F);

  decode_mxfp4(codes.data(), scales.data(), 2, out.data());

  std::vector<float> wanted(out.size(), 0.0F);
  wanted[0] = 0.5F;
  wanted[1] = 1.0F;
  wanted[30] = 6.0F;
  wanted[31] = -6.0F;
  wanted[32] = 12.0F;
  EXPECT_EQ(out, wanted);
}

TEST(Mxfp4, TheSmallestScalesAreExactAndTheLastIsNoNumber) {
  const std::vector<std::byte> codes(3 * kMxfp4BlockBytes, std::byte{0x71});  // .5, 6
  const std::vector<std::byte> scales = {std::byte{0}, std::byte{252}, std::byte{255}};
  std::vector<float> out(3 * kMxfp4Block);

  decode_mxfp4(codes.data(), scales.data(), 3, out.data());

  EXPECT_EQ(out[0], 0x1p-128F);
  EXPECT_EQ(out[1], 6 * 0x1p-127F);
  EXPECT_EQ(out[33], 6 * 0x1p125F);
  EXPECT_TRUE(std::isnan(out[64]));
}

TEST(Mxfp4, BlocksOfGgmlHaveTheirScaleInFrontAndTheirFirstHalfInTheLowNibbles) {
  std::vector<std::byte> in(2 * (1 + kMxfp4BlockBytes), std::byte{0});
  in[0] = std::byte{127};
  in[1] = std::byte{0x21};   // .5 of the first half, 1 of the second
  in[16] = std::byte{0xF7};  // 6, -6
  in[17] = std::byte{0};     // 2^-127
  in[18] = std::byte{0x13};  // 1.5, .5
  std::vector<float> out(2 * kMxfp4Block, 99.0F);

  decode_ggml_mxfp4(in.data(), 2, out.data());

  std::vector<float> wanted(out.size(), 0.0F);
  wanted[0] = 0.5F;
  wanted[16] = 1.0F;
  wanted[15] = 6.0F;
  wanted[31] = -6.0F;
  wanted[32] = 1.5F * 0x1p-127F;
  wanted[48] = 0x1p-128F;
  EXPECT_EQ(out, wanted);
}

TEST(Mxfp4, MeetsTheGoldensExactly) {
  const auto folder = std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "sources";
  const auto blocks = test::read_golden_file(folder / "gpt_oss/model-00001-of-00002.safetensors");
  const auto scales = test::read_golden_file(folder / "gpt_oss/model-00002-of-00002.safetensors");
  const auto wanted = test::read_golden_file(folder / "gpt_oss_expected.safetensors");
  const auto& down = blocks.at("model.layers.0.mlp.experts.down_proj_blocks");
  const std::int64_t matrix = 64 * 96;
  std::vector<float> out(static_cast<std::size_t>(3 * matrix));

  decode_mxfp4(down.bytes.data(), scales.at("model.layers.0.mlp.experts.down_proj_scales").bytes.data(),
               3 * matrix / kMxfp4Block, out.data());

  for (std::int64_t expert = 0; expert < 3; ++expert) {
    const auto name = "model.layers.0.mlp.experts." + std::to_string(expert) + ".down_proj.weight";
    EXPECT_EQ(std::vector<float>(out.begin() + expert * matrix, out.begin() + (expert + 1) * matrix),
              wanted.at(name).floats());
  }
}

}  // namespace
}  // namespace halfquad
