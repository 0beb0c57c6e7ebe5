#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/packed_int.h"
#include "tests/support/golden_hqq.h"

namespace halfquad {
namespace {

std::vector<std::byte> bytes_of_words(const std::vector<std::uint32_t>& words) {
  std::vector<std::byte> bytes(words.size() * sizeof(std::uint32_t));
  std::memcpy(bytes.data(), words.data(), bytes.size());
  return bytes;
}

TEST(PackedInt, DecodesTheWordsOfCompressedTensors) {
  const auto codes = bytes_of_words({0x76543210, 0xfedcba98, 0x89abcdef, 0x01234567});
  const auto zeros = bytes_of_words({0x00000c83});
  const std::vector<float> scales = {1.0F, 0.5F, 2.0F, 1.0F};
  const ScaleGrid grid{reinterpret_cast<const std::byte*>(scales.data()), DType::kF32, 1, 8};
  std::vector<float> out(32);

  decode_packed_int_rows({4, codes.data(), zeros.data()}, {0, 4, 8}, grid, out.data());

  EXPECT_EQ(out, (std::vector<float>{-3, -2, -1, 0, 1,  2,  3,  4,  0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5,
                                     6,  4,  2,  0, -2, -4, -6, -8, 7, 6,   5, 4,   3, 2,   1, 0}));
}

TEST(PackedInt, ThreeBitCodesCrossWords) {
  const auto codes = bytes_of_words({0x88fac688, 0xc688fac6, 0xfac688fa});
  const float scale = 1.0F;
  std::vector<float> out(32);

  decode_packed_int_rows({3, codes.data(), nullptr}, {0, 1, 32},
                         {reinterpret_cast<const std::byte*>(&scale), DType::kF32, 1, 32}, out.data());

  for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], static_cast<float>(i % 8) - 4.0F) << i;
}

TEST(PackedInt, RowsEndInAWholeWord) {
  EXPECT_EQ(packed_int_row_bytes(8, 4), 4);
  EXPECT_EQ(packed_int_row_bytes(9, 4), 8);
  EXPECT_EQ(packed_int_row_bytes(32, 3), 12);
  EXPECT_EQ(packed_int_row_bytes(36, 8), 36);
}

struct Case {
  std::string module;
  int bits;
  std::int64_t cols, group;
  bool symmetric;
};

TEST(PackedInt, MeetsTheGoldensExactlyFromAnyRowOn) {
  const auto folder = std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "sources";
  const auto codes = test::read_golden_file(folder / "packed_int/model-00001-of-00002.safetensors");
  const auto zeros = test::read_golden_file(folder / "packed_int/model-00002-of-00002.safetensors");
  const auto wanted = test::read_golden_file(folder / "packed_int_expected.safetensors");
  for (const Case& c : {Case{"self_attn.q_proj", 4, 96, 32, false}, Case{"self_attn.k_proj", 4, 64, 32, true},
                        Case{"self_attn.v_proj", 8, 64, 32, false}, Case{"self_attn.o_proj", 3, 64, 32, true},
                        Case{"mlp.up_proj", 8, 36, 36, true}}) {
    const std::string module = "model.layers.0." + c.module;
    const std::vector<float> all = wanted.at(module + ".weight").floats();
    const auto row_count = static_cast<std::int64_t>(all.size()) / c.cols;
    const std::int64_t groups = c.cols / c.group;
    for (std::int64_t first = 0; first < row_count; ++first) {
      SCOPED_TRACE(module + " from row " + std::to_string(first));
      const std::byte* zero_words =
          c.symmetric ? nullptr
                      : zeros.at(module + ".weight_zero_point").bytes.data() + first * c.bits / 32 * groups * 4;
      const ScaleGrid grid{codes.at(module + ".weight_scale").bytes.data() + first * groups * 2, DType::kBF16, 1,
                           c.group};
      std::vector<float> out(static_cast<std::size_t>((row_count - first) * c.cols));

      decode_packed_int_rows(
          {c.bits, codes.at(module + ".weight_packed").bytes.data() + first * packed_int_row_bytes(c.cols, c.bits),
           zero_words},
          {first, row_count - first, c.cols}, grid, out.data());

      EXPECT_EQ(out, std::vector<float>(all.begin() + first * c.cols, all.end()));
    }
  }
}

}  // namespace
}  // namespace halfquad
