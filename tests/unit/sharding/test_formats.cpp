#include <algorithm>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/decode.h"
#include "sharding/format.h"
#include "sharding/formats/row_format.h"
#include "sharding/stored_grid.h"
#include "tests/support/golden_hqq.h"

namespace halfquad {
namespace {

using test::GoldenFile;
using test::GoldenTensor;

const std::filesystem::path kGoldens = std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "formats";

/// A layer of the golden inputs: kind, bits and group size are in its name ("f4_64", "i4_n12", "s8_32").
struct GoldenLayer {
  std::string name;
  QuantSpec spec;
  std::int64_t rows = 0, cols = 0;
  std::vector<std::uint8_t> codes;
  std::vector<float> scale, zero;
};

std::vector<GoldenLayer> golden_layers() {
  const GoldenFile inputs = test::read_golden_file(kGoldens / "inputs.safetensors");
  std::vector<GoldenLayer> layers;
  for (const auto& [name, codes] : inputs) {
    if (!name.ends_with(".q")) continue;
    GoldenLayer layer;
    layer.name = name.substr(0, name.size() - 2);
    layer.rows = codes.shape[0];
    layer.cols = codes.shape[1];
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(codes.bytes.data());
    layer.codes.assign(bytes, bytes + codes.bytes.size());
    layer.scale = inputs.at(layer.name + ".scale").floats();
    layer.zero = inputs.at(layer.name + ".zero").floats();
    layer.spec.width = *code_width_from_name(layer.name.substr(1, 1));
    layer.spec.group_size = layer.cols / inputs.at(layer.name + ".scale").shape[1];
    if (layer.name[0] == 'i') layer.spec.zeros = ZeroKind::kInteger;
    if (layer.name[0] == 's') layer.spec.zeros = ZeroKind::kSymmetric;
    layers.push_back(std::move(layer));
  }
  return layers;
}

/// The bytes of a whole layer's tensors.
struct PackedLayer {
  std::string codes, scale, zero;
};

/// Packs `rows` of a layer at a time, each piece to its place among the whole layer's bytes.
PackedLayer pack(const RowPacker& packer, const RowShape& shape, const GoldenLayer& layer, std::int64_t step) {
  const RowCuts cuts = packer.cuts(shape);
  PackedLayer out{std::string(cuts.codes.total_bytes(), '\xEE'), std::string(cuts.scale.total_bytes(), '\xEE'),
                  std::string(cuts.zero.total_bytes(), '\xEE')};
  StoredGrid grid;
  EXPECT_TRUE(grid.assign(packer.form(shape.spec), shape.spec.zeros, shape.stored, layer.scale.data(),
                          layer.zero.data(), layer.scale.size()));
  const std::int64_t groups = shape.groups_per_row();
  for (std::int64_t row = 0; row < shape.rows; row += step) {
    const auto place = [&](const RowCut& cut, std::string& bytes) -> LineBytes<std::byte> {
      return {reinterpret_cast<std::byte*>(bytes.data()) + cut.offset_of(row), cut.run_bytes};
    };
    packer.pack(shape,
                {std::min(step, shape.rows - row), layer.codes.data() + row * shape.cols,
                 grid.scale.data() + row * groups, grid.second.data() + row * groups},
                {place(cuts.codes, out.codes), place(cuts.scale, out.scale), place(cuts.zero, out.zero)});
  }
  return out;
}

struct FormatGolden {
  std::string format, file;
  DType stored = DType::kF16;
};

class FormatGoldens : public testing::TestWithParam<FormatGolden> {
 protected:
  static void expect_tensor(const GoldenFile& expected, const TensorShape& tensor, const std::string& bytes) {
    SCOPED_TRACE(tensor.name);
    ASSERT_TRUE(expected.contains(tensor.name));
    const GoldenTensor& golden = expected.at(tensor.name);
    EXPECT_EQ(name_of(golden.dtype), name_of(tensor.dtype));
    EXPECT_EQ(golden.shape, tensor.shape);
    ASSERT_EQ(golden.bytes.size(), bytes.size());
    EXPECT_EQ(std::memcmp(golden.bytes.data(), bytes.data(), bytes.size()), 0);
  }
};

// Names, dtypes, shapes and bytes of every layer that the format's own loaders accepted.
TEST_P(FormatGoldens, AreWrittenByteForByte) {
  const Format* format = format_named(GetParam().format);
  ASSERT_NE(format, nullptr);
  const GoldenFile expected = test::read_golden_file(kGoldens / GetParam().file);
  int layers = 0;
  for (const GoldenLayer& layer : golden_layers()) {
    SCOPED_TRACE(layer.name);
    const bool there =
        std::ranges::any_of(expected, [&](const auto& entry) { return entry.first.starts_with(layer.name + "."); });
    QuantSpec adapted = layer.spec;
    format->adapt(adapted, layer.cols);
    if (!there || adapted.zeros != layer.spec.zeros) continue;
    ++layers;
    const RowShape shape{layer.spec, layer.rows, layer.cols, GetParam().stored};
    const PackedLayer packed = pack(*format->packer(), shape, layer, layer.rows);
    const LayerTensors tensors = format->tensors_of(layer.name, layer.spec, layer.rows, layer.cols, shape.stored);
    expect_tensor(expected, tensors.codes, packed.codes);
    if (tensors.scale) expect_tensor(expected, *tensors.scale, packed.scale);
    if (tensors.zero) expect_tensor(expected, *tensors.zero, packed.zero);
    for (const LayerTensors::Constant& constant : tensors.constants) {
      expect_tensor(expected, constant.tensor, constant.bytes);
    }
  }
  EXPECT_GE(layers, 3);
}

INSTANTIATE_TEST_SUITE_P(All, FormatGoldens,
                         testing::Values(FormatGolden{"mlx", "expected_mlx_f16.safetensors"},
                                         FormatGolden{"compressed-tensors", "expected_ct_bf16.safetensors",
                                                      DType::kBF16},
                                         FormatGolden{"torchao", "expected_torchao_bf16.safetensors", DType::kBF16},
                                         FormatGolden{"awq", "expected_awq.safetensors"},
                                         FormatGolden{"gptq", "expected_gptq_v2.safetensors"}),
                         [](const auto& info) {
                           std::string name = info.param.format;
                           std::erase(name, '-');
                           return name;
                         });

/// A layer of random codes that the format takes.
GoldenLayer random_layer(const Format& format, CodeWidth width, std::int64_t rows, std::int64_t cols) {
  GoldenLayer layer;
  layer.spec.width = width;
  layer.spec.group_size = 32;
  layer.rows = rows;
  layer.cols = cols;
  format.adapt(layer.spec, layer.cols);
  std::mt19937 random(static_cast<unsigned>(rows * 31 + cols));
  layer.codes.resize(static_cast<std::size_t>(rows * cols));
  for (std::uint8_t& code : layer.codes) {
    code = static_cast<std::uint8_t>(random() % static_cast<unsigned>(qmax(width) + 1));
  }
  const auto groups = static_cast<std::size_t>(rows * cols / 32);
  for (std::size_t i = 0; i < groups; ++i) {
    layer.scale.push_back(round_to(DType::kF16, static_cast<float>(random() % 1000 + 1) / 8192));
    float zero = static_cast<float>(random() % static_cast<unsigned>(qmax(width) + 1));
    if (layer.spec.zeros == ZeroKind::kFloat) zero += 0.25F;
    if (layer.spec.zeros == ZeroKind::kSymmetric) zero = static_cast<float>((qmax(width) + 1) / 2);
    layer.zero.push_back(zero);
  }
  return layer;
}

class RowFormats : public testing::TestWithParam<std::string> {};

// Tiles are written by anyone in any order: the bytes must not depend on how the rows are cut.
TEST_P(RowFormats, PackTheSameBytesPieceByPieceAndReadThemBack) {
  const Format& format = *format_named(GetParam());
  const RowPacker& packer = *format.packer();
  int widths = 0;
  for (const CodeWidth width : {CodeWidth::k2, CodeWidth::k3, CodeWidth::k4, CodeWidth::k5, CodeWidth::k8}) {
    constexpr std::int64_t kRows = 160, kCols = 96;
    const GoldenLayer layer = random_layer(format, width, kRows, kCols);
    if (format.why_not(layer.spec, kRows, kCols)) continue;
    SCOPED_TRACE(name_of(width));
    ++widths;
    const RowShape shape{layer.spec, kRows, kCols, format.scale_dtypes().front()};
    const PackedLayer whole = pack(packer, shape, layer, kRows);
    const PackedLayer pieces = pack(packer, shape, layer, TileGeometry::kRowStep);
    EXPECT_TRUE(whole.codes == pieces.codes);
    EXPECT_TRUE(whole.scale == pieces.scale);
    EXPECT_TRUE(whole.zero == pieces.zero);

    const RowCuts cuts = packer.cuts(shape);
    std::vector<std::uint8_t> codes(layer.codes.size());
    StoredGrid grid, wanted;
    ASSERT_TRUE(wanted.assign(packer.form(layer.spec), layer.spec.zeros, shape.stored, layer.scale.data(),
                              layer.zero.data(), layer.scale.size()));
    grid.scale.resize(layer.scale.size());
    grid.second.resize(layer.scale.size());
    const auto place = [](const RowCut& cut, const std::string& bytes) -> LineBytes<const std::byte> {
      return {reinterpret_cast<const std::byte*>(bytes.data()), cut.run_bytes};
    };
    packer.unpack(shape, {place(cuts.codes, whole.codes), place(cuts.scale, whole.scale), place(cuts.zero, whole.zero)},
                  {kRows, codes.data(), grid.scale.data(), grid.second.data()});
    EXPECT_EQ(codes, layer.codes);
    EXPECT_EQ(grid.scale, wanted.scale);
    EXPECT_EQ(grid.second, wanted.second);
  }
  EXPECT_GE(widths, 1);
}

INSTANTIATE_TEST_SUITE_P(All, RowFormats,
                         testing::Values("mlx", "compressed-tensors", "torchao", "awq", "gptq", "gguf"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST(StoredGrid, RoundsOnceAndTakesTheZeroFromWhatIsStored) {
  const float s = 0.1F, z = 7.3F;
  StoredGrid offsets, zeros;
  ASSERT_TRUE(offsets.assign({GridForm::Second::kOffset, 0}, ZeroKind::kFloat, DType::kBF16, &s, &z, 1));
  ASSERT_TRUE(zeros.assign({}, ZeroKind::kFloat, DType::kBF16, &s, &z, 1));

  EXPECT_EQ(offsets.scale[0], round_to(DType::kBF16, s));
  EXPECT_EQ(offsets.second[0], round_to(DType::kBF16, -s * z));
  EXPECT_EQ(offsets.zero[0], 0 - offsets.second[0] / offsets.scale[0]);
  EXPECT_EQ(offsets.inverse[0], 1 / offsets.scale[0]);
  EXPECT_EQ(zeros.zero[0], round_to(DType::kBF16, z));
}

TEST(StoredGrid, NeverStoresAScaleOfZeroAndRefusesWhatDoesNotFit) {
  StoredGrid grid;
  const float tiny = 1e-9F, huge = 1e6F, zero = 3;
  ASSERT_TRUE(grid.assign({}, ZeroKind::kInteger, DType::kF16, &tiny, &zero, 1));
  EXPECT_GT(grid.scale[0], 0);
  EXPECT_FALSE(grid.assign({}, ZeroKind::kFloat, DType::kF16, &huge, &zero, 1));
  EXPECT_FALSE(grid.assign({GridForm::Second::kOffset, 0}, ZeroKind::kFloat, DType::kF16, &zero, &huge, 1));
}

}  // namespace
}  // namespace halfquad
