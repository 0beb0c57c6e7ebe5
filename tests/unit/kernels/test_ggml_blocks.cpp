#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/decode.h"
#include "kernels/ggml_blocks.h"
#include "tests/support/golden_hqq.h"

namespace halfquad {
namespace {

using Bytes = std::vector<std::byte>;

constexpr GgmlBlock kKinds[] = {GgmlBlock::kQ4_0, GgmlBlock::kQ4_1, GgmlBlock::kQ5_0, GgmlBlock::kQ5_1,
                                GgmlBlock::kQ8_0};

std::string hex(const Bytes& bytes) {
  std::string out;
  for (const std::byte b : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    out += {kDigits[std::to_integer<int>(b) >> 4], kDigits[std::to_integer<int>(b) & 15]};
  }
  return out;
}

/// One block with d = 0.5 and m = -1.625 whose code j is (step * j) mod 2^bits.
std::string worked_block(GgmlBlock kind, int step) {
  std::vector<std::uint8_t> codes(32);
  for (int j = 0; j < 32; ++j)
    codes[static_cast<std::size_t>(j)] = static_cast<std::uint8_t>(step * j % (1 << bits_of(kind)));
  const std::uint16_t d = f32_to_f16(0.5F);
  const std::uint16_t m = f32_to_f16(-1.625F);
  Bytes out(static_cast<std::size_t>(block_bytes_of(kind)));
  pack_ggml_blocks(kind, {codes.data(), &d, &m, 32, 32}, out.data());
  return hex(out);
}

TEST(GgmlBlocks, EqualTheWorkedExamples) {
  EXPECT_EQ(worked_block(GgmlBlock::kQ4_1, 5), "003880be0055aaff4499ee3388dd2277cc1166bb");
  EXPECT_EQ(worked_block(GgmlBlock::kQ5_1, 7), "003880be983367cc0077ee55cc33aa1188ff66dd44bb2299");
  EXPECT_EQ(worked_block(GgmlBlock::kQ4_0, 5), "00380055aaff4499ee3388dd2277cc1166bb");
  EXPECT_EQ(worked_block(GgmlBlock::kQ5_0, 7), "0038983367cc0077ee55cc33aa1188ff66dd44bb2299");
  EXPECT_EQ(worked_block(GgmlBlock::kQ8_0, 8).substr(0, 12), "003880889098");
}

TEST(GgmlBlocks, SayWhatTheyHold) {
  EXPECT_EQ(name_of(GgmlBlock::kQ5_0), "Q5_0");
  EXPECT_EQ(fixed_zero_of(GgmlBlock::kQ4_0), 8);
  EXPECT_EQ(fixed_zero_of(GgmlBlock::kQ5_0), 16);
  EXPECT_EQ(fixed_zero_of(GgmlBlock::kQ8_0), 128);
  EXPECT_TRUE(has_minimum(GgmlBlock::kQ4_1));
  EXPECT_FALSE(has_minimum(GgmlBlock::kQ8_0));
}

TEST(GgmlBlocks, AreReadBack) {
  std::mt19937_64 random(1);
  for (const GgmlBlock kind : kKinds) {
    for (const std::int64_t group_size : {32, 64, 128}) {
      constexpr std::int64_t kElems = 256;
      std::vector<std::uint8_t> codes(kElems);
      for (auto& code : codes) code = static_cast<std::uint8_t>(random() & ((1U << bits_of(kind)) - 1U));
      std::vector<std::uint16_t> d;
      std::vector<std::uint16_t> m;
      for (std::int64_t g = 0; g < kElems / group_size; ++g) {
        d.push_back(static_cast<std::uint16_t>(random()));
        m.push_back(static_cast<std::uint16_t>(random()));
      }
      Bytes blocks(static_cast<std::size_t>(kElems / 32 * block_bytes_of(kind)) + 1, std::byte{0xEE});

      pack_ggml_blocks(kind, {codes.data(), d.data(), m.data(), kElems, group_size}, blocks.data());

      EXPECT_EQ(blocks.back(), std::byte{0xEE});
      std::vector<std::uint8_t> codes_back(kElems);
      std::vector<std::uint16_t> d_back(kElems / 32);
      std::vector<std::uint16_t> m_back(kElems / 32);
      unpack_ggml_blocks(kind, blocks.data(), {codes_back.data(), d_back.data(), m_back.data(), kElems, 32});
      EXPECT_EQ(codes_back, codes);
      for (std::size_t b = 0; b < d_back.size(); ++b) {
        const std::size_t g = b * 32 / static_cast<std::size_t>(group_size);
        EXPECT_EQ(d_back[b], d[g]);
        EXPECT_EQ(m_back[b], has_minimum(kind) ? m[g] : 0);
      }
    }
  }
}

TEST(GgmlBlocks, Q8IsItsCodesTimesTheirScale) {
  constexpr std::int64_t kBlocks = 3;
  const std::vector<std::uint16_t> d = {f32_to_f16(0.25F), f32_to_f16(-3.5F), 1};  // the last one subnormal
  std::vector<std::uint8_t> codes(kBlocks * 32);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i * 37);
  Bytes blocks(static_cast<std::size_t>(kBlocks * block_bytes_of(GgmlBlock::kQ8_0)));
  pack_ggml_blocks(GgmlBlock::kQ8_0, {codes.data(), d.data(), nullptr, kBlocks * 32, 32}, blocks.data());
  std::vector<float> weights(codes.size() + 1, 7.0F);

  dequantize_q8_0(blocks.data(), kBlocks * 32, weights.data());

  for (std::size_t i = 0; i < codes.size(); ++i) {
    EXPECT_EQ(weights[i], (static_cast<float>(codes[i]) - 128) * f16_to_f32(d[i / 32])) << i;
  }
  EXPECT_EQ(weights.back(), 7.0F);
}

TEST(GgmlBlocks, EqualTheGoldens) {
  const std::filesystem::path folder = HALFQUAD_GOLDEN_DIR;
  const test::GoldenFile inputs = test::read_golden_file(folder / "formats" / "inputs.safetensors");
  const test::GoldenFile golden = test::read_golden_file(folder / "formats" / "expected_gguf.safetensors");
  for (const auto& [key, want] : golden) {
    SCOPED_TRACE(key);
    const std::string layer = key.substr(0, key.find('.'));
    GgmlBlock kind{};
    for (const GgmlBlock candidate : kKinds) {
      if (key.ends_with(name_of(candidate))) kind = candidate;
    }
    const test::GoldenTensor& codes = inputs.at(layer + ".q");
    const std::vector<float> scale = inputs.at(layer + ".scale").floats();
    const std::vector<float> zero = inputs.at(layer + ".zero").floats();
    std::vector<std::uint16_t> d;
    std::vector<std::uint16_t> m;
    for (std::size_t g = 0; g < scale.size(); ++g) {
      d.push_back(f32_to_f16(scale[g]));
      m.push_back(f32_to_f16(-scale[g] * zero[g]));
    }
    const auto elems = static_cast<std::int64_t>(codes.bytes.size());
    Bytes blocks(want.bytes.size());

    pack_ggml_blocks(kind,
                     {reinterpret_cast<const std::uint8_t*>(codes.bytes.data()), d.data(), m.data(), elems,
                      elems / static_cast<std::int64_t>(scale.size())},
                     blocks.data());

    EXPECT_TRUE(blocks == want.bytes);
  }
  EXPECT_EQ(golden.size(), 21U);
}

}  // namespace
}  // namespace halfquad
