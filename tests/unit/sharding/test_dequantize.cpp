#include <bit>
#include <cstring>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/decode.h"
#include "sharding/dequantize.h"
#include "tests/support/expect_error.h"
#include "tests/unit/sharding/tiny_output.h"

namespace halfquad {
namespace {

using test::TinyOutput;

/// Code of element (row, col) of the grouped matrix, by the packing's definition.
int code_at(const StoredLayer& layer, const std::string& packed, std::int64_t row, std::int64_t col) {
  const TileGeometry& tiles = layer.tiles;
  const std::int64_t slab = row / tiles.packed_rows();
  const std::int64_t at = row % tiles.packed_rows() * tiles.grouped().cols + col;
  const auto byte = [&](std::int64_t i) { return static_cast<unsigned char>(packed[static_cast<std::size_t>(i)]); };
  switch (tiles.packing()) {
    case Packing::k8BitU8:
      return byte(at);
    case Packing::k4BitU8:
      return (byte(at) >> (4 - 4 * slab)) & 15;
    case Packing::k2BitU8:
      return (byte(at) >> (6 - 2 * slab)) & 3;
    case Packing::k1BitU8:
      return (byte(at) >> (7 - slab)) & 1;
    case Packing::k3Bit32: {
      std::uint32_t word = 0;
      std::memcpy(&word, packed.data() + 4 * at, sizeof word);
      return static_cast<int>((word >> (27 - 3 * slab)) & 7);
    }
  }
  return -1;
}

std::string naive_weights(const TinyOutput& tiny, const StoredLayer& layer, DType dtype) {
  const auto floats = [&](const std::string& name) {
    std::vector<float> out(static_cast<std::size_t>(layer.tiles.scale_count()));
    decode_to_f32(reinterpret_cast<const std::byte*>(tiny.tensor(name).bytes.data()), layer.stored,
                  layer.tiles.scale_count(), out.data());
    return out;
  };
  const std::vector<float> scale = floats(layer.module + ".scale");
  const std::vector<float> zero = floats(layer.module + ".zero");
  const std::string& packed = tiny.tensor(layer.module + ".W_q").bytes;
  const GroupedShape& grouped = layer.tiles.grouped();
  std::string out;
  for (std::int64_t i = 0; i < layer.rows * layer.cols; ++i) {  // the grouped matrix is the tensor, reshaped
    const std::int64_t row = i / grouped.cols;
    const std::int64_t col = i % grouped.cols;
    const auto group = static_cast<std::size_t>(!layer.spec.channel_wise ? 0 : layer.spec.axis == 1 ? row : col);
    const float difference = static_cast<float>(code_at(layer, packed, row, col)) - zero[group];
    const float weight = difference * scale[group];
    char bytes[4];
    encode_from_f32(&weight, dtype, 1, reinterpret_cast<std::byte*>(bytes));
    out.append(bytes, static_cast<std::size_t>(bytes_of(dtype)));
  }
  return out;
}

std::string bytes_of_tensor(const TinyOutput& tiny, const Checkpoint& checkpoint, const std::string& name) {
  const SourceTensor* tensor = checkpoint.find(name);
  if (tensor == nullptr) return "no tensor " + name;
  return test::get_file(tiny.temp.path() / "plain.safetensors").substr(tensor->offset, tensor->bytes);
}

void expect_naive(const TinyOutput& tiny, const DequantizeOptions& options) {
  const QuantizedModel output(*tiny.fs, tiny.output_path);
  ProgressCounters progress;
  dequantize(*tiny.fs, output, tiny.temp.path() / "plain.safetensors", options, progress, StopFlag());

  const Checkpoint plain(*tiny.fs, tiny.temp.path() / "plain.safetensors");
  for (const StoredLayer& layer : output.layers()) {
    const SourceTensor* tensor = plain.find(layer.module + ".weight");
    ASSERT_NE(tensor, nullptr) << layer.module;
    EXPECT_EQ(tensor->dtype, options.dtype);
    EXPECT_EQ(tensor->shape, (std::vector<std::int64_t>{layer.rows, layer.cols}));
    EXPECT_TRUE(bytes_of_tensor(tiny, plain, tensor->name) == naive_weights(tiny, layer, options.dtype))
        << layer.module << " as " << name_of(options.dtype);
  }
  EXPECT_EQ(plain.tensors().size(), output.layers().size() + output.plain().size());
  const ProgressTotals totals = dequantize_totals(output);
  EXPECT_EQ(progress.source_bytes_done, totals.source_bytes);
  EXPECT_EQ(progress.weights_done, totals.weights);
  EXPECT_EQ(progress.tensors_done, totals.tensors);
}

TEST(Dequantize, EqualsTheNaiveComputationForLayersOfEveryKind) {
  const TinyOutput tiny(test::every_kind_of_layer());
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) expect_naive(tiny, {.dtype = dtype});
}

TEST(Dequantize, PutsTilesInPlaceFromSeveralThreads) {
  QuantSpec rtn;
  rtn.solver = SolverKind::kRtn;
  QuantSpec columns = rtn;
  columns.axis = 0;
  QuantSpec three = rtn;
  three.width = CodeWidth::k3;
  QuantSpec tensor = rtn;
  tensor.channel_wise = false;
  const TinyOutput tiny({{"model.layers.0.a", 2050, 2112, DType::kBF16, rtn},
                         {"model.layers.0.b", 2112, 2050, DType::kBF16, columns},
                         {"model.layers.0.c", 2051, 2112, DType::kBF16, three},
                         {"model.layers.0.d", 2050, 2112, DType::kBF16, tensor}});

  expect_naive(tiny, {.dtype = DType::kF32, .threads = 3});
}

TEST(Dequantize, KeepsPlainTensorsAsTheyAre) {
  const TinyOutput tiny(test::every_kind_of_layer());
  expect_naive(tiny, {.dtype = DType::kF32});

  const Checkpoint plain(*tiny.fs, tiny.temp.path() / "plain.safetensors");
  for (const test::TestTensor& tensor : tiny.source) {
    if (tensor.name.find("embed") == std::string::npos && tensor.name.find("norm") == std::string::npos) continue;
    ASSERT_NE(plain.find(tensor.name), nullptr) << tensor.name;
    EXPECT_EQ(plain.find(tensor.name)->dtype, tensor.dtype);
    EXPECT_EQ(bytes_of_tensor(tiny, plain, tensor.name), tensor.bytes);
  }
}

TEST(Dequantize, DropsTheQuantizationFromTheConfig) {
  const TinyOutput tiny({{"model.layers.0.q", 16, 64, DType::kBF16, {}}});
  const QuantizedModel output(*tiny.fs, tiny.output_path);

  const boost::json::object config = dequantized_config(output.checkpoint().config(), DType::kBF16);

  EXPECT_FALSE(config.contains("quantization_config"));
  EXPECT_EQ(config.at("torch_dtype").as_string(), "bfloat16");
  EXPECT_EQ(config.at("model_type").as_string(), "llama");
}

TEST(Dequantize, RefusesOtherDtypes) {
  const TinyOutput tiny({{"model.layers.0.q", 16, 64, DType::kBF16, {}}});
  const QuantizedModel output(*tiny.fs, tiny.output_path);
  ProgressCounters progress;

  test::expect_error(ErrorCode::kUsage, {"not U8"}, [&] {
    dequantize(*tiny.fs, output, tiny.temp.path() / "plain.safetensors", {.dtype = DType::kU8}, progress, StopFlag());
  });
}

}  // namespace
}  // namespace halfquad
