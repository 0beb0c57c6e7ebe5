#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io/posix_file_system.h"
#include "runtime/buffer_pool.h"
#include "sharding/coded_tile.h"
#include "sharding/item_buffer.h"
#include "sharding/source_model.h"

namespace halfquad {
namespace {

QuantizedTensor tensor_of(const QuantSpec& spec, const SourceTensor& source) {
  const std::int64_t rows = source.shape[0], cols = source.shape[1];
  return {0, "layer", spec, rows, cols, TileGeometry(spec, rows, cols), 0, 0, 0};
}

/// The ways to cut that a tensor allows.
std::vector<QuantSpec> specs_for(const SourceTensor& source) {
  std::vector<QuantSpec> specs;
  for (const CodeWidth width : {CodeWidth::k8, CodeWidth::k4, CodeWidth::k3, CodeWidth::k2}) {
    for (const std::int64_t group_size : {0, 1, 8, 20, 64}) {
      for (const int axis : {1, 0}) {
        const QuantSpec spec{.width = width, .group_size = group_size, .axis = axis};
        if (!why_not(spec, source.shape[0], source.shape[1])) specs.push_back(spec);
      }
    }
  }
  return specs;
}

class CodedSources : public testing::TestWithParam<std::pair<std::string, bool>> {
 protected:
  [[nodiscard]] std::vector<std::byte> weights(const QuantizedTensor& tensor, const SourceTensor& source,
                                               ItemBuffer::ReadAs as) {
    const DType stored = DType::kF16;
    ItemBuffer item(pool_.acquire(ItemBuffer::tile_bytes(tensor, 0, source, stored)), tensor, 0, source, stored, 0);
    EXPECT_EQ(item.read(files_, source, as), static_cast<std::uint64_t>(tensor.rows * tensor.cols) * sizeof(float));
    coded_ = item.coded() != nullptr;
    const std::byte* const data = item.source().slabs[0];
    return {data, data + total_bytes(item.ranges())};
  }

  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
  Checkpoint model_ = open_source(*fs_, std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "sources" / GetParam().first);
  OpenCheckpoint files_{*fs_, model_, ReadMode::kBuffered};
  BufferPool pool_{64 << 20};
  bool coded_ = false;  ///< Whether the last tile came as it is stored.
};

TEST_P(CodedSources, AreTheWeightsThatAreReadAsSuch) {
  int coded = 0, compared = 0;
  for (const SourceTensor& source : model_.tensors()) {
    if (source.decoder == nullptr) continue;
    for (const QuantSpec& spec : specs_for(source)) {
      const QuantizedTensor tensor = tensor_of(spec, source);
      const auto wanted = weights(tensor, source, ItemBuffer::ReadAs::kWeights);
      EXPECT_FALSE(coded_);

      EXPECT_TRUE(weights(tensor, source, ItemBuffer::ReadAs::kStored) == wanted) << source.name;

      EXPECT_EQ(coded_, GetParam().second && spec.axis == 1) << source.name;
      coded += coded_ ? 1 : 0;
      ++compared;
    }
  }
  EXPECT_GT(compared, 0);
  EXPECT_EQ(coded > 0, GetParam().second);
}

// Experts that lie transposed, packed integers and MXFP4 are decoded on their way in.
INSTANTIATE_TEST_SUITE_P(All, CodedSources,
                         testing::Values(std::pair("fp8_block", true), std::pair("fp8_channel", true),
                                         std::pair("int8", true), std::pair("fp8_experts", true),
                                         std::pair("fp8_llama4", false), std::pair("packed_int", false),
                                         std::pair("gpt_oss", false)),
                         [](const auto& param_info) { return std::string(param_info.param.first); });

}  // namespace
}  // namespace halfquad
