#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "sharding/coded_elements.h"
#include "sharding/dequantize.h"
#include "sharding/layer_decoder.h"
#include "sharding/open_checkpoint.h"
#include "tests/unit/sharding/tiny_output.h"

namespace halfquad {
namespace {

using test::TinyOutput;

/// Layers of every kind in hqq's layout, and what dequantize() makes of them.
class LayerDecoderTest : public ::testing::Test {
 protected:
  LayerDecoderTest() {
    ProgressCounters progress;
    const StopFlag stop;
    DequantizeOptions options;
    options.dtype = DType::kF32;
    dequantize(*tiny_.fs, output_, tiny_.temp.path() / "plain.safetensors", options, progress, stop);
    plain_.emplace(*tiny_.fs, tiny_.temp.path() / "plain.safetensors");
    plain_files_.emplace(*tiny_.fs, *plain_, ReadMode::kBuffered);
  }

  std::vector<float> expected(const StoredLayer& layer) {
    std::vector<float> weights(static_cast<std::size_t>(layer.rows * layer.cols));
    const SourceTensor& tensor = *plain_->find(layer.module + ".weight");
    read(*plain_files_, tensor, {0, tensor.bytes}, weights.data());
    return weights;
  }

  void read(const OpenCheckpoint& files, const SourceTensor& tensor, ByteRange range, void* out) {
    files.gather(tensor, {&range, 1}, scratch_.bytes(), static_cast<std::byte*>(out));
  }

  SourceTensor decoded(const StoredLayer& layer, const LayerView& view) const {
    SourceTensor tensor;
    tensor.decoder = layer_decoder(output_.checkpoint(), layer, view);
    return tensor;
  }

  TinyOutput tiny_{test::every_kind_of_layer()};
  QuantizedModel output_{*tiny_.fs, tiny_.output_path};
  OpenCheckpoint files_{*tiny_.fs, output_.checkpoint(), ReadMode::kBuffered};
  std::optional<Checkpoint> plain_;
  std::optional<OpenCheckpoint> plain_files_;
  BufferPool pool_{2 * OpenCheckpoint::kScratchBytes};
  Buffer scratch_ = pool_.acquire(OpenCheckpoint::kScratchBytes);
};

TEST_F(LayerDecoderTest, AnyPartHoldsTheDequantizedWeights) {
  std::mt19937 random(5);
  for (const StoredLayer& layer : output_.layers()) {
    SCOPED_TRACE(layer.module);
    const std::vector<float> wanted = expected(layer);
    const SourceTensor tensor = decoded(layer, {});
    for (int round = 0; round < 40; ++round) {
      std::size_t begin = round == 0 ? 0 : random() % wanted.size();
      std::size_t end = round == 0 ? wanted.size() : random() % wanted.size();
      if (begin > end) std::swap(begin, end);
      std::vector<float> found(end - begin);
      read(files_, tensor, {begin * sizeof(float), found.size() * sizeof(float)}, found.data());
      ASSERT_EQ(std::memcmp(found.data(), wanted.data() + begin, found.size() * sizeof(float)), 0)
          << begin << ' ' << end;
    }
  }
}

TEST_F(LayerDecoderTest, AreOfAsManyStoredBytesAsTheirTensors) {
  for (const StoredLayer& layer : output_.layers()) {
    SourceTensor tensor = decoded(layer, {});
    tensor.bytes = static_cast<std::uint64_t>(layer.rows * layer.cols) * sizeof(float);
    std::uint64_t stored = 0;
    for (const std::size_t part : {layer.codes, layer.scale, layer.zero}) {
      stored += output_.checkpoint().tensors()[part].bytes;
    }
    EXPECT_EQ(tensor.stored_bytes(), stored) << layer.module;
    EXPECT_NEAR(static_cast<double>(tensor.stored_bytes(tensor.bytes / 4)), static_cast<double>(stored) / 4, 1);
  }
}

TEST_F(LayerDecoderTest, CodedElementsHoldCodesAndGrids) {
  for (const StoredLayer& layer : output_.layers()) {
    if (!layer.spec.channel_wise) continue;
    SCOPED_TRACE(layer.module);
    const std::vector<float> wanted = expected(layer);
    const GroupedShape& grouped = layer.tiles.grouped();
    const bool columns = layer.tiles.by_columns();
    const std::int64_t elems = grouped.group_elems;
    for (const std::int64_t part : {elems, elems / 2}) {
      if (columns && part != elems) continue;
      std::vector<CodedElement> found(wanted.size());
      read(files_, decoded(layer, {0, {}, part}), {0, found.size() * sizeof(float)}, found.data());
      const auto at = [&](std::int64_t group, std::int64_t k) {
        return static_cast<std::size_t>(columns ? k * grouped.groups + group : group * part + k);
      };
      for (std::int64_t group = 0; group < layer.rows * layer.cols / part; ++group) {
        CodedGrid grid;
        for (std::int64_t k = 0; k < kCodedGridElements; ++k) grid.set_part(k, found[at(group, k)].part);
        for (std::int64_t k = 0; k < part; ++k) {
          const float weight = (static_cast<float>(found[at(group, k)].code) - grid.zero()) * grid.scale();
          ASSERT_EQ(weight, wanted[at(group, k)]) << group << ' ' << k;
        }
      }
    }
  }
}

TEST(CodedGrid, KeepsEveryBit) {
  for (const float value : {0.0F, -0.0F, 1.17549435e-38F, -3.4e38F, 0.1F}) {
    const CodedGrid from(value, -value);
    CodedGrid to;
    for (std::int64_t k = 0; k < kCodedGridElements; ++k) to.set_part(k, from.part(k));
    const float scale = to.scale();
    const float zero = to.zero();
    const float negative = -value;
    EXPECT_EQ(std::memcmp(&scale, &value, sizeof value), 0) << value;
    EXPECT_EQ(std::memcmp(&zero, &negative, sizeof value), 0) << value;
  }
  EXPECT_EQ(CodedGrid(1, 2).part(kCodedGridElements), (std::array<std::uint8_t, 3>{}));
}

}  // namespace
}  // namespace halfquad
