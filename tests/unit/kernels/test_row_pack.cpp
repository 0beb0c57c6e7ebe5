#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/decode.h"
#include "kernels/row_pack.h"
#include "tests/support/golden_hqq.h"

namespace halfquad {
namespace {

using test::GoldenFile;
using test::GoldenTensor;
using Bytes = std::vector<std::byte>;

Bytes bytes_of_hex(const std::string& hex) {
  Bytes out;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    out.push_back(static_cast<std::byte>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return out;
}

std::vector<std::uint8_t> random_codes(std::mt19937_64& random, std::int64_t count, int bits) {
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(count));
  for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random() & ((1U << bits) - 1U));
  return codes;
}

/// Bit `i` of a stream, by definition.
unsigned bit_of(const Bytes& stream, std::int64_t i) {
  return std::to_integer<unsigned>(stream[static_cast<std::size_t>(i / 8)]) >> (i % 8) & 1U;
}

TEST(PackBits, PutsCodeIAtBitITimesBits) {
  std::mt19937_64 random(1);
  for (int bits = 1; bits <= 8; ++bits) {
    for (const std::int64_t count : {0, 1, 2, 7, 8, 9, 31, 32, 33, 250}) {
      const std::vector<std::uint8_t> codes = random_codes(random, count, bits);
      Bytes stream(static_cast<std::size_t>(bit_stream_words(count, bits) * 4), std::byte{0xEE});

      pack_bits(codes.data(), count, bits, stream);

      std::int64_t i = 0;
      for (const std::uint8_t code : codes) {
        for (int b = 0; b < bits; ++b, ++i) ASSERT_EQ(bit_of(stream, i), code >> b & 1U) << bits << " bits, bit " << i;
      }
      for (; i < static_cast<std::int64_t>(stream.size()) * 8; ++i) ASSERT_EQ(bit_of(stream, i), 0U);
      std::vector<std::uint8_t> back(codes.size() + 1, 0xEE);
      unpack_bits(stream.data(), count, bits, back.data());
      EXPECT_EQ(back.back(), 0xEE);
      back.pop_back();
      EXPECT_EQ(back, codes);
    }
  }
}

TEST(PackBits, WritesAndReadsNoByteTooMany) {
  const std::vector<std::uint8_t> codes(11, 5);
  Bytes stream(6, std::byte{0xEE});  // 33 bits are five bytes

  pack_bits(codes.data(), 11, 3, {stream.data(), 5});

  EXPECT_EQ(bit_stream_bytes(11, 3), 5);
  EXPECT_EQ(bit_stream_words(11, 3), 2);
  EXPECT_EQ(stream[4], std::byte{1});
  EXPECT_EQ(stream[5], std::byte{0xEE});
}

TEST(PackBits, EqualsTheWorkedExamples) {
  std::vector<std::uint8_t> ramp(32);
  for (std::size_t i = 0; i < ramp.size(); ++i) ramp[i] = static_cast<std::uint8_t>(i);
  Bytes out(20);
  pack_bits(ramp.data(), 32, 5, out);
  EXPECT_EQ(out, bytes_of_hex("2088418a3928a9c59a7b30ca49abbd38ebcdbbff"));
  for (std::uint8_t& code : ramp) code &= 7;
  out.resize(12);
  pack_bits(ramp.data(), 32, 3, out);
  EXPECT_EQ(out, bytes_of_hex("88c6fa88c6fa88c6fa88c6fa"));
}

/// Where bit `bit` of the code at (r, c) lies: its line, and the bit in that line.
std::pair<std::int64_t, std::int64_t> place_of(WordLayout layout, int bits, std::int64_t r, std::int64_t c, int bit) {
  constexpr std::int64_t kAwqPlace[] = {0, 4, 1, 5, 2, 6, 3, 7};
  const std::int64_t in_row = c * bits + bit;
  const std::int64_t in_column = r * bits + bit;
  switch (layout) {
    case WordLayout::kRows:
      return {r, in_row};
    case WordLayout::kRowsDown:
      return {in_row / 32, r * 32 + in_row % 32};
    case WordLayout::kColumns:
      return {c, in_column};
    case WordLayout::kColumnsDown:
      return {in_column / 32, c * 32 + in_column % 32};
    case WordLayout::kAwq:
      return {c, r / 8 * 32 + kAwqPlace[r % 8] * 4 + bit};
  }
  return {};
}

struct LineShape {
  std::int64_t lines, words;
};

LineShape shape_of(WordLayout layout, int bits, const CodeMatrix& m) {
  switch (layout) {
    case WordLayout::kRows:
      return {m.rows, bit_stream_words(m.cols, bits)};
    case WordLayout::kRowsDown:
      return {bit_stream_words(m.cols, bits), m.rows};
    case WordLayout::kColumns:
    case WordLayout::kAwq:
      return {m.cols, bit_stream_words(m.rows, bits)};
    case WordLayout::kColumnsDown:
      return {bit_stream_words(m.rows, bits), m.cols};
  }
  return {};
}

constexpr WordLayout kLayouts[] = {WordLayout::kRows, WordLayout::kRowsDown, WordLayout::kColumns,
                                   WordLayout::kColumnsDown, WordLayout::kAwq};

TEST(PackWords, PutsEveryBitInItsPlaceAndNothingBeside) {
  std::mt19937_64 random(2);
  for (const WordLayout layout : kLayouts) {
    for (int draw = 0; draw < 150; ++draw) {
      const int bits = layout == WordLayout::kAwq ? 4 : 1 + draw % 8;
      const auto pick = [&](std::uint64_t most) { return 1 + static_cast<std::int64_t>(random() % most); };
      const std::int64_t rows = draw % 3 == 0 ? 32 : pick(layout == WordLayout::kAwq ? 300 : 70);
      const std::int64_t cols = draw % 4 == 0 ? 64 : pick(draw % 7 == 0 ? 1300 : 300);
      const std::int64_t stride = cols + draw % 3;
      const std::vector<std::uint8_t> codes = random_codes(random, rows * stride, bits);
      const CodeMatrix matrix{codes.data(), rows, cols, stride};
      const LineShape shape = shape_of(layout, bits, matrix);
      const std::int64_t line = shape.words * 4 + 4 * (draw % 5);
      Bytes memory(static_cast<std::size_t>(shape.lines * line + 4), std::byte{0xEE});
      Bytes want = memory;
      for (std::int64_t i = 0; i < shape.lines; ++i) {
        std::fill_n(want.begin() + i * line, shape.words * 4, std::byte{0});
      }
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < cols; ++c) {
          for (int b = 0; b < bits; ++b) {
            if ((codes[static_cast<std::size_t>(r * stride + c)] >> b & 1U) == 0) continue;
            const auto [at, bit] = place_of(layout, bits, r, c, b);
            want[static_cast<std::size_t>(at * line + bit / 8)] |= static_cast<std::byte>(1U << (bit % 8));
          }
        }
      }

      pack_words(layout, bits, matrix, {memory.data(), line});

      ASSERT_TRUE(memory == want) << "layout " << static_cast<int>(layout) << ", " << bits << " bits, " << rows << " x "
                                  << cols;
      std::vector<std::uint8_t> back(codes.size(), 0xEE);
      unpack_words(layout, bits, {memory.data(), line}, {back.data(), rows, cols, stride});
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < stride; ++c) {
          const auto at = static_cast<std::size_t>(r * stride + c);
          ASSERT_EQ(back[at], c < cols ? codes[at] : 0xEE) << "layout " << static_cast<int>(layout);
        }
      }
    }
  }
}

TEST(PackWords, BlocksOfRowsMakeUpTheWholeMatrix) {
  std::mt19937_64 random(3);
  constexpr std::int64_t kRows = 160;
  constexpr std::int64_t kCols = 96;
  for (const WordLayout layout : {WordLayout::kRowsDown, WordLayout::kColumns, WordLayout::kAwq}) {
    for (const int bits : {2, 3, 4, 8}) {
      if (layout == WordLayout::kAwq && bits != 4) continue;
      const std::vector<std::uint8_t> codes = random_codes(random, kRows * kCols, bits);
      const LineShape shape = shape_of(layout, bits, {codes.data(), kRows, kCols, kCols});
      const std::int64_t line = shape.words * 4;
      Bytes whole(static_cast<std::size_t>(shape.lines * line));
      Bytes parts = whole;
      pack_words(layout, bits, {codes.data(), kRows, kCols, kCols}, {whole.data(), line});

      for (std::int64_t r = 0; r < kRows; r += 64) {
        const std::int64_t n = std::min<std::int64_t>(64, kRows - r);
        const std::int64_t column = layout == WordLayout::kRowsDown ? r * 4 : r * bits / 8;
        pack_words(layout, bits, {codes.data() + r * kCols, n, kCols, kCols}, {parts.data() + column, line});
      }

      EXPECT_TRUE(parts == whole) << static_cast<int>(layout);
    }
  }
}

/// One layer of the goldens.
struct Layer {
  std::string name;
  int bits = 0;
  std::int64_t rows = 0, cols = 0, groups = 0;  // groups of one row
  std::vector<std::uint8_t> codes;
  std::vector<float> scale, zero;
  std::vector<std::uint8_t> zero_codes;

  [[nodiscard]] CodeMatrix matrix() const { return {codes.data(), rows, cols, cols}; }
  [[nodiscard]] CodeMatrix zeros() const { return {zero_codes.data(), rows, groups, groups}; }
};

GoldenFile read_golden(const std::string& name) {
  const std::filesystem::path folder = HALFQUAD_GOLDEN_DIR;
  return test::read_golden_file(folder / "formats" / (name + ".safetensors"));
}

std::vector<Layer> golden_layers() {
  std::vector<Layer> layers;
  const GoldenFile inputs = read_golden("inputs");
  for (const auto& [key, codes] : inputs) {
    if (!key.ends_with(".q")) continue;
    Layer layer;
    layer.name = key.substr(0, key.size() - 2);
    layer.bits = layer.name[1] - '0';
    layer.rows = codes.shape[0];
    layer.cols = codes.shape[1];
    layer.codes.resize(codes.bytes.size());
    std::memcpy(layer.codes.data(), codes.bytes.data(), codes.bytes.size());
    layer.scale = inputs.at(layer.name + ".scale").floats();
    layer.zero = inputs.at(layer.name + ".zero").floats();
    layer.groups = inputs.at(layer.name + ".scale").shape[1];
    if (layer.name[0] != 'f') {
      layer.zero_codes.resize(layer.zero.size());
      zeros_to_codes(layer.zero, layer.zero_codes.data());
    }
    layers.push_back(std::move(layer));
  }
  return layers;
}

/// Packs into memory the size of the golden, compares, and unpacks again.
void expect_words(WordLayout layout, int bits, const CodeMatrix& matrix, const GoldenTensor& golden) {
  Bytes memory(golden.bytes.size(), std::byte{0xEE});
  const std::int64_t line = golden.shape[1] * 4;
  pack_words(layout, bits, matrix, {memory.data(), line});
  EXPECT_TRUE(memory == golden.bytes);
  std::vector<std::uint8_t> back(static_cast<std::size_t>(matrix.rows * matrix.cols), 0xEE);
  unpack_words(layout, bits, {golden.bytes.data(), line}, {back.data(), matrix.rows, matrix.cols, matrix.cols});
  EXPECT_TRUE(std::equal(back.begin(), back.end(), matrix.codes));
}

TEST(GoldenFormats, MlxWeights) {
  const GoldenFile golden = read_golden("expected_mlx_f16");
  int found = 0;
  for (const Layer& layer : golden_layers()) {
    const auto at = golden.find(layer.name + ".weight");
    if (at == golden.end()) continue;
    SCOPED_TRACE(layer.name);
    ++found;
    expect_words(WordLayout::kRows, layer.bits, layer.matrix(), at->second);
  }
  EXPECT_EQ(found, 24);
}

TEST(GoldenFormats, CompressedTensors) {
  const GoldenFile golden = read_golden("expected_ct_bf16");
  int found = 0;
  for (const Layer& layer : golden_layers()) {
    if (!golden.contains(layer.name + ".weight_packed")) continue;
    SCOPED_TRACE(layer.name);
    ++found;
    expect_words(WordLayout::kRows, layer.bits, layer.matrix(), golden.at(layer.name + ".weight_packed"));
    if (layer.name[0] == 's') continue;
    expect_words(WordLayout::kColumnsDown, layer.bits, layer.zeros(), golden.at(layer.name + ".weight_zero_point"));
  }
  EXPECT_EQ(found, 11);
}

TEST(GoldenFormats, Awq) {
  const GoldenFile golden = read_golden("expected_awq");
  int found = 0;
  for (const Layer& layer : golden_layers()) {
    if (!golden.contains(layer.name + ".qweight")) continue;
    SCOPED_TRACE(layer.name);
    ++found;
    expect_words(WordLayout::kAwq, 4, layer.matrix(), golden.at(layer.name + ".qweight"));
    expect_words(WordLayout::kAwq, 4, layer.zeros(), golden.at(layer.name + ".qzeros"));
  }
  EXPECT_EQ(found, 3);
}

TEST(GoldenFormats, Gptq) {
  const GoldenFile v2 = read_golden("expected_gptq_v2");
  const GoldenFile v1 = read_golden("expected_gptq_v1");
  int found = 0;
  for (Layer& layer : golden_layers()) {
    if (!v2.contains(layer.name + ".qweight")) continue;
    SCOPED_TRACE(layer.name);
    ++found;
    expect_words(WordLayout::kRowsDown, layer.bits, layer.matrix(), v2.at(layer.name + ".qweight"));
    expect_words(WordLayout::kColumns, layer.bits, layer.zeros(), v2.at(layer.name + ".qzeros"));
    if (!v1.contains(layer.name + ".qzeros")) continue;
    for (std::uint8_t& zero : layer.zero_codes) --zero;
    expect_words(WordLayout::kColumns, layer.bits, layer.zeros(), v1.at(layer.name + ".qzeros"));
  }
  EXPECT_EQ(found, 6);
}

TEST(GoldenFormats, ScalesByColumn) {
  const GoldenFile golden = read_golden("expected_gptq_v2");
  for (const Layer& layer : golden_layers()) {
    const auto at = golden.find(layer.name + ".scales");
    if (at == golden.end()) continue;
    Bytes memory(at->second.bytes.size());

    store_transposed(layer.scale.data(), layer.rows, layer.groups, DType::kF16, {memory.data(), layer.rows * 2});

    EXPECT_TRUE(memory == at->second.bytes) << layer.name;
  }
}

TEST(GoldenFormats, TorchaoInt4) {
  const GoldenFile golden = read_golden("expected_torchao_bf16");
  int found = 0;
  for (const Layer& layer : golden_layers()) {
    if (!golden.contains(layer.name + "._weight_qdata")) continue;
    SCOPED_TRACE(layer.name);
    ++found;
    const Bytes& codes = golden.at(layer.name + "._weight_qdata").bytes;
    Bytes packed(codes.size());
    pack_torchao_int4(layer.codes.data(), layer.rows * layer.cols, packed.data());
    EXPECT_TRUE(packed == codes);
    std::vector<std::uint8_t> back(layer.codes.size());
    unpack_torchao_int4(codes.data(), layer.rows * layer.cols, back.data());
    EXPECT_EQ(back, layer.codes);

    std::vector<float> points;
    for (std::size_t i = 0; i < layer.zero.size(); ++i) {
      points.push_back(torchao_zero_point(layer.scale[i], layer.zero[i]));
      EXPECT_NEAR(zero_of_torchao(layer.scale[i], points[i]), layer.zero[i], 1e-4);
    }
    const Bytes& want = golden.at(layer.name + "._weight_zero_point").bytes;
    Bytes stored(want.size());
    store_transposed(points.data(), layer.rows, layer.groups, DType::kBF16, {stored.data(), layer.rows * 2});
    EXPECT_TRUE(stored == want);
    std::vector<float> loaded(points.size());
    load_transposed({want.data(), layer.rows * 2}, DType::kBF16, layer.rows, layer.groups, loaded.data());
    for (std::size_t i = 0; i < points.size(); ++i) EXPECT_EQ(loaded[i], round_to(DType::kBF16, points[i]));
  }
  EXPECT_EQ(found, 11);
}

TEST(TorchaoZeroPoint, IsTheRoundedDifferenceTimesTheScale) {
  const float scale = 0.7F;
  const float zero = 7.9F;
  const float difference = 8.0F - zero;

  EXPECT_EQ(torchao_zero_point(scale, zero), difference * scale);
  EXPECT_NE(torchao_zero_point(scale, zero), 8.0F * scale - zero * scale);
}

TEST(StoreTransposed, WritesOnlyItsColumnsOfLongLines) {
  constexpr std::int64_t kRows = 300;  // more than go together
  std::vector<float> values(kRows * 2);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  std::vector<float> lines(2 * 400, -1);

  store_transposed(values.data(), kRows, 2, DType::kF32, {reinterpret_cast<std::byte*>(lines.data()), 400 * 4});

  for (std::int64_t r = 0; r < 400; ++r) {
    ASSERT_EQ(lines[static_cast<std::size_t>(r)], r < kRows ? static_cast<float>(2 * r) : -1);
    ASSERT_EQ(lines[static_cast<std::size_t>(400 + r)], r < kRows ? static_cast<float>(2 * r + 1) : -1);
  }
}

}  // namespace
}  // namespace halfquad
