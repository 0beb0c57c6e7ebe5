#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "io/checkpoint.h"
#include "io/posix_file_system.h"
#include "io/safetensors_header.h"
#include "runtime/dtype.h"

namespace halfquad {

/// One tensor of a checkpoint under test.
struct FakeTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  DType dtype = DType::kBF16;
};

/// A checkpoint of headers alone: the weights are a hole in the file. Removes its directory when it ends.
class HeaderCheckpoint {
 public:
  /// Tensors lie in the files in the order given. `config` is the text of config.json; empty: none.
  explicit HeaderCheckpoint(const std::vector<FakeTensor>& tensors, const std::string& config = "{}")
      : directory_(make_directory()), fs_(make_posix_file_system()) {
    write_weights(tensors);
    if (!config.empty()) std::ofstream(directory_ / "config.json") << config;
    checkpoint_ = std::make_unique<Checkpoint>(*fs_, directory_);
  }
  ~HeaderCheckpoint() {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  HeaderCheckpoint(const HeaderCheckpoint&) = delete;
  HeaderCheckpoint& operator=(const HeaderCheckpoint&) = delete;

  [[nodiscard]] const Checkpoint& operator*() const noexcept { return *checkpoint_; }
  [[nodiscard]] const Checkpoint* operator->() const noexcept { return checkpoint_.get(); }

 private:
  static std::filesystem::path make_directory() {
    const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info();
    const std::filesystem::path base = testing::TempDir();
    for (int i = 0;; ++i) {
      // Tests of one executable may run in several processes at once: the first to create a name owns it.
      std::filesystem::path path =
          base / ("halfquad_" + std::string(test->test_suite_name()) + "_" + test->name() + "_" + std::to_string(i));
      if (std::filesystem::create_directory(path)) return path;
    }
  }

  void write_weights(const std::vector<FakeTensor>& tensors) const {
    std::vector<TensorEntry> entries;
    std::uint64_t offset = 0;
    for (const FakeTensor& tensor : tensors) {
      const auto elements = static_cast<std::uint64_t>(element_count(tensor.shape).value());
      const std::uint64_t bytes = elements * static_cast<std::uint64_t>(bytes_of(tensor.dtype));
      entries.push_back({tensor.name, tensor.dtype, tensor.shape, offset, offset + bytes});
      offset += bytes;
    }
    const std::filesystem::path file = directory_ / "model.safetensors";
    const std::string header = serialize_safetensors_header(entries, {});
    std::ofstream(file, std::ios::binary) << header;
    std::filesystem::resize_file(file, header.size() + offset);
  }

  std::filesystem::path directory_;
  std::unique_ptr<FileSystem> fs_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

/// A two-layer Llama-shaped model: 7 linear layers a block, in names and order of the original.
[[nodiscard]] inline std::vector<FakeTensor> llama_tensors(std::int64_t hidden = 64, std::int64_t inner = 96) {
  std::vector<FakeTensor> tensors = {{"lm_head.weight", {320, hidden}}, {"model.embed_tokens.weight", {320, hidden}}};
  for (const std::string block : {"model.layers.0.", "model.layers.1."}) {
    tensors.push_back({block + "input_layernorm.weight", {hidden}});
    tensors.push_back({block + "mlp.down_proj.weight", {hidden, inner}});
    tensors.push_back({block + "mlp.gate_proj.weight", {inner, hidden}});
    tensors.push_back({block + "mlp.up_proj.weight", {inner, hidden}});
    tensors.push_back({block + "post_attention_layernorm.weight", {hidden}});
    for (const std::string proj : {"k_proj", "o_proj", "q_proj", "v_proj"}) {
      tensors.push_back({block + "self_attn." + proj + ".weight", {hidden, hidden}});
    }
  }
  tensors.push_back({"model.norm.weight", {hidden}});
  return tensors;
}

}  // namespace halfquad
