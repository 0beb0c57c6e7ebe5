// Rows of floating-point codes as compressed-tensors and gguf-py write and read them (tests/golden/formats).
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/float_grid.h"
#include "sharding/format.h"
#include "tests/support/golden_hqq.h"

namespace halfquad {
namespace {

/// Of GGUF's MXFP4.
constexpr auto kBlockBytes = static_cast<std::size_t>(ggml_block_bytes(FloatGrid::kMxfp4));

struct Case {
  std::string format, kind;
  FloatGrid grid = FloatGrid::kMxfp4;
};

const test::GoldenFile& golden() {
  static const test::GoldenFile file =
      test::read_golden_file(std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "formats" / "float_grids.safetensors");
  return file;
}

/// There is one zero.
std::byte without_negative_zeros(std::byte pair) {
  const auto value = std::to_integer<unsigned>(pair);
  const unsigned low = value & 0xFU, high = value >> 4U;
  return static_cast<std::byte>((low == 8 ? 0 : low) | (high == 8 ? 0 : high) << 4U);
}

float largest_of(std::vector<float>::const_iterator begin, std::vector<float>::const_iterator end) {
  float largest = 0;
  for (; begin != end; ++begin) largest = std::max(largest, std::abs(*begin));
  return largest;
}

class FloatRowsGoldens : public testing::TestWithParam<Case> {
 protected:
  static const test::GoldenTensor& tensor(const std::string& layer, const std::string& key) {
    return golden().at(layer + "." + GetParam().kind + "." + key);
  }
  static bool has(const std::string& layer, const std::string& key) {
    return golden().contains(layer + "." + GetParam().kind + "." + key);
  }

  static RowShape shape_of(const std::string& layer) {
    const test::GoldenTensor& decoded = tensor(layer, "decoded");
    const QuantSpec spec{
        .group_size = group_size_of(GetParam().grid), .zeros = ZeroKind::kSymmetric, .grid = GetParam().grid};
    RowShape shape{spec, decoded.shape[0], decoded.shape[1]};
    if (has(layer, "weight_global_scale")) shape.tensor_scale = tensor(layer, "weight_global_scale").floats()[0];
    return shape;
  }
};

TEST_P(FloatRowsGoldens, AreReadAsTheirOwnersReadThemAndWrittenAsTheyWriteThem) {
  const RowPacker& packer = *format_named(GetParam().format)->packer();
  for (const std::string layer : {"small", "wide"}) {
    SCOPED_TRACE(layer);
    const RowShape shape = shape_of(layer);
    const bool blocks = has(layer, "blocks");
    std::vector<std::byte> codes = tensor(layer, blocks ? "blocks" : "weight_packed").bytes;
    const std::vector<std::byte> scales = blocks ? std::vector<std::byte>() : tensor(layer, "weight_scale").bytes;
    std::vector<std::uint8_t> held(static_cast<std::size_t>(shape.rows * shape.cols));
    std::vector<float> scale(static_cast<std::size_t>(shape.rows * shape.groups_per_row())), zero(scale.size());

    packer.unpack(shape, {{codes.data(), codes.size()}, {scales.data(), scales.size()}, {}},
                  {shape.rows, held.data(), scale.data(), zero.data()});

    std::vector<float> weights(held.size());
    for (std::size_t i = 0; i < held.size(); ++i) {
      const std::size_t group = i / static_cast<std::size_t>(shape.spec.group_size);
      weights[i] = (static_cast<float>(held[i]) - zero[group]) * scale[group];
    }
    EXPECT_EQ(weights, tensor(layer, "decoded").floats());

    std::vector<std::byte> packed(codes.size()), packed_scales(scales.size());
    packer.pack(shape, {shape.rows, held.data(), scale.data(), zero.data()},
                {{packed.data(), packed.size()}, {packed_scales.data(), packed_scales.size()}, {}});
    if (!blocks) std::ranges::transform(codes, codes.begin(), without_negative_zeros);
    for (std::size_t at = 0; blocks && at < codes.size(); ++at) {
      if (at % kBlockBytes != 0) codes[at] = without_negative_zeros(codes[at]);
    }
    EXPECT_TRUE(packed == codes);
    EXPECT_TRUE(packed_scales == scales);
  }
}

// What rounding with the largest scale means to others: the same bytes of scales, but for groups of zeros. In MXFP4
// compressed-tensors takes the power of two above where the largest weight is beyond 7/8 of it.
TEST_P(FloatRowsGoldens, HaveTheScalesOfRoundingWithTheLargest) {
  for (const std::string layer : {"small", "wide"}) {
    const RowShape shape = shape_of(layer);
    const std::vector<float> weights = golden().at(layer + ".weight").floats();
    std::vector<std::uint8_t> codes(weights.size());
    std::vector<float> scale(static_cast<std::size_t>(shape.rows * shape.groups_per_row()));
    const float largest = largest_of(weights.begin(), weights.end());
    if (shape.spec.has_tensor_scale()) {
      EXPECT_FLOAT_EQ(tensor_scale_of(largest), shape.tensor_scale);
    }
    make_float_searcher()->run({.grid = GetParam().grid,
                                .tensor_scale = shape.tensor_scale,
                                .weights = weights.data(),
                                .groups = static_cast<std::int64_t>(scale.size()),
                                .cols = shape.cols},
                               ScaleSearch::kLargest, {codes.data(), scale.data()});
    for (std::size_t group = 0; group < scale.size(); ++group) {
      const auto elems = static_cast<std::ptrdiff_t>(shape.spec.group_size);
      const auto begin = weights.begin() + static_cast<std::ptrdiff_t>(group) * elems;
      if (std::all_of(begin, begin + elems, [](float w) { return w == 0; })) continue;
      const std::vector<std::byte>& bytes = tensor(layer, has(layer, "blocks") ? "blocks" : "weight_scale").bytes;
      const std::byte theirs = bytes[has(layer, "blocks") ? group * kBlockBytes : group];
      const bool above = GetParam().kind == "mxfp4" && largest_of(begin, begin + elems) >= 7 * 2 * scale[group];
      EXPECT_EQ(scale_byte_of(GetParam().grid, scale[group], shape.tensor_scale) + (above ? 1 : 0),
                std::to_integer<int>(theirs))
          << layer << ", group " << group;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, FloatRowsGoldens,
                         testing::Values(Case{"compressed-tensors", "nvfp4", FloatGrid::kNvfp4},
                                         Case{"compressed-tensors", "mxfp4"}, Case{"gguf", "gguf"}),
                         [](const auto& info) { return info.param.kind; });

TEST(GgufNvfp4, IsReadAsGgufPyReadsItAndWrittenAsItWas) {
  for (const std::string layer : {"small", "wide"}) {
    SCOPED_TRACE(layer);
    const test::GoldenTensor& decoded = golden().at(layer + ".gguf_nvfp4.decoded");
    std::vector<std::byte> blocks = golden().at(layer + ".gguf_nvfp4.blocks").bytes;
    const QuantSpec spec{.group_size = 16, .zeros = ZeroKind::kSymmetric, .grid = FloatGrid::kNvfp4};
    const RowShape shape{spec, decoded.shape[0], decoded.shape[1]};
    const RowPacker& packer = *format_named("gguf")->packer();
    ASSERT_EQ(packer.cuts(shape).codes.total_bytes(), blocks.size());
    std::vector<std::uint8_t> held(static_cast<std::size_t>(shape.rows * shape.cols));
    std::vector<float> scale(held.size() / 16), zero(scale.size());

    packer.unpack(shape, {{blocks.data(), blocks.size()}, {}, {}},
                  {shape.rows, held.data(), scale.data(), zero.data()});

    std::vector<float> weights(held.size());
    for (std::size_t i = 0; i < held.size(); ++i) {
      weights[i] = (static_cast<float>(held[i]) - zero[i / 16]) * scale[i / 16];
    }
    EXPECT_EQ(weights, decoded.floats());
    std::vector<std::byte> packed(blocks.size());
    packer.pack(shape, {shape.rows, held.data(), scale.data(), zero.data()}, {{packed.data(), packed.size()}, {}, {}});
    for (std::size_t at = 0; at < blocks.size(); ++at) {
      if (at % 36 >= 4) blocks[at] = without_negative_zeros(blocks[at]);
    }
    EXPECT_TRUE(packed == blocks);
  }
}

}  // namespace
}  // namespace halfquad
