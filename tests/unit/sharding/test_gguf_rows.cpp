#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/ggml_k_quants.h"
#include "sharding/block_type.h"
#include "sharding/formats/gguf_rows.h"
#include "sharding/stored_grid.h"

namespace halfquad {
namespace {

constexpr std::int64_t kRows = 3, kCols = 512;

QuantSpec spec_of(std::string_view type) {
  QuantSpec spec;
  find_block_type(type)->apply_to(spec);
  return spec;
}

/// Some rows with super-blocks of one value, of zeros, and of positive weights only.
std::vector<float> weights() {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 0.02F);
  std::vector<float> values(kRows * kCols);
  for (float& value : values) value = normal(random);
  for (std::size_t i = 0; i < 256; ++i) values[i] = 0;
  for (std::size_t i = 256; i < 512; ++i) values[i] = -0.5F;
  for (std::size_t i = 512; i < 768; ++i) values[i] = std::abs(values[i]) + 1;
  return values;
}

struct Packed {
  RowShape shape;
  std::vector<std::byte> bytes;
  ErrorSums errors;
};

Packed packed(std::string_view type) {
  Packed result{{spec_of(type), kRows, kCols, DType::kF16}, {}, {}};
  const RowCuts cuts = gguf_rows().cuts(result.shape);
  result.bytes.resize(cuts.codes.total_bytes());
  gguf_rows().search(result.shape, weights(), nullptr, {{result.bytes.data(), cuts.codes.unit_bytes}, {}, {}},
                     result.errors);
  return result;
}

TEST(GgufRows, SuperBlocksAreThoseOfTheSearch) {
  for (const char* type : {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}) {
    const Packed found = packed(type);
    const GgmlType& ggml = gguf_type_of(found.shape.spec);
    EXPECT_EQ(ggml.name, type);
    const std::int64_t blocks = kRows * kCols / kGgmlSuperBlock;
    EXPECT_EQ(static_cast<std::int64_t>(found.bytes.size()), blocks * ggml.block_bytes) << type;
    EXPECT_GT(found.errors.square.value(), 0) << type;
    EXPECT_LT(found.errors.square.value(), 0.05 * found.errors.weight2.value()) << type;
  }
}

TEST(GgufRows, SuperBlocksReadBackAreWhatLlamaCppMakesOfThem) {
  const std::pair<const char*, GgmlKQuant> types[] = {{"Q2_K", GgmlKQuant::kQ2_K},
                                                      {"Q3_K", GgmlKQuant::kQ3_K},
                                                      {"Q4_K", GgmlKQuant::kQ4_K},
                                                      {"Q5_K", GgmlKQuant::kQ5_K},
                                                      {"Q6_K", GgmlKQuant::kQ6_K}};
  for (const auto& [type, kind] : types) {
    const Packed found = packed(type);
    std::vector<float> expected(kRows * kCols);
    dequantize_k_quants(kind, found.bytes.data(), kRows * kCols, expected.data());

    const std::int64_t group = found.shape.group_elems();
    const auto groups = static_cast<std::size_t>(kRows * found.shape.groups_per_row());
    std::vector<std::uint8_t> codes(kRows * kCols);
    StoredGrid grid;
    grid.scale.resize(groups);
    grid.second.resize(groups);
    gguf_rows().unpack(found.shape, {{found.bytes.data(), 0}, {}, {}},
                       {kRows, codes.data(), grid.scale.data(), grid.second.data()});
    grid.derive(gguf_rows().form(found.shape.spec));
    for (std::size_t i = 0; i < codes.size(); ++i) {
      const std::size_t g = i / static_cast<std::size_t>(group);
      const float value = (static_cast<float>(codes[i]) - grid.zero[g]) * grid.scale[g];
      ASSERT_TRUE(std::isfinite(value)) << type << ' ' << i;
      ASSERT_NEAR(value, expected[i], 2e-6 * (1 + std::abs(expected[i]))) << type << ' ' << i;
      ASSERT_LE(codes[i], qmax(found.shape.spec.width)) << type << ' ' << i;
    }
  }
}

TEST(GgufRows, SuperBlocksNeedRowsTheyDivide) {
  QuantSpec spec = spec_of("Q4_K");
  EXPECT_FALSE(why_not_gguf_rows(spec, 4, 512));
  EXPECT_NE(why_not_gguf_rows(spec, 4, 384)->find("super-blocks of 256"), std::string::npos);
  spec.width = CodeWidth::k8;
  EXPECT_NE(why_not_gguf_rows(spec, 4, 512)->find("no super-blocks of 8 bits"), std::string::npos);
  QuantSpec plain;
  plain.width = CodeWidth::k6;
  EXPECT_NE(why_not_gguf_rows(plain, 4, 512)->find("Q6_K"), std::string::npos);
}

}  // namespace
}  // namespace halfquad
