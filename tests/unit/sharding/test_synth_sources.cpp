#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io/posix_file_system.h"
#include "sharding/plan.h"
#include "sharding/rules.h"
#include "sharding/source_model.h"
#include "sharding/source_rows.h"
#include "sharding/source_tensors.h"
#include "sharding/synth.h"
#include "sharding/synth_model.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

using test::get_file;

/// The tensors of a preset, as a plain checkpoint would hold them.
std::map<std::string, LogicalTensor> tensors_of(const SynthOptions& options) {
  const std::unique_ptr<FileSystem> beneath = make_posix_file_system();
  const auto files = preset_files(*beneath, synth_model(options));
  std::map<std::string, LogicalTensor> tensors;
  for (LogicalTensor& tensor : logical_tensors(Checkpoint(*files, kPresetDirectory))) {
    std::string name = tensor.header.name;
    tensors.emplace(std::move(name), std::move(tensor));
  }
  return tensors;
}

double billions(const std::map<std::string, LogicalTensor>& tensors) {
  double elements = 0;
  for (const auto& [name, tensor] : tensors) elements += static_cast<double>(tensor.header.elements());
  return elements / 1e9;
}

std::size_t expert_matrices(const std::map<std::string, LogicalTensor>& tensors) {
  return static_cast<std::size_t>(std::ranges::count_if(tensors, [](const auto& entry) {
    return entry.first.find(".experts.") != std::string::npos && entry.second.header.shape.size() == 2 &&
           entry.first.ends_with("_proj.weight");
  }));
}

TEST(SynthSources, HaveTheParametersAndExpertsOfTheRealModels) {
  const auto gpt_oss = tensors_of({.preset = "gpt-oss-120b"});
  EXPECT_NEAR(billions(gpt_oss), 116.83, 0.01);
  EXPECT_EQ(expert_matrices(gpt_oss), 36U * 128 * 3);
  EXPECT_NEAR(billions(tensors_of({.preset = "gpt-oss-20b"})), 20.91, 0.01);

  const auto qwen = tensors_of({.preset = "qwen3-30b-a3b"});
  EXPECT_NEAR(billions(qwen), 30.532, 0.001);
  EXPECT_EQ(expert_matrices(qwen), 48U * 128 * 3);

  const auto deepseek = tensors_of({.preset = "deepseek-v3"});
  EXPECT_EQ(expert_matrices(deepseek), (58U + 1) * 256 * 3);
  EXPECT_NEAR(billions(deepseek), 671.03 + 13.5, 0.5) << "with the prediction block and its copies of the embeddings";
}

TEST(SynthSources, DeepSeeksLinearLayersAreFp8AndItsPredictionBlockIsThere) {
  const auto tensors = tensors_of({.preset = "tiny-deepseek-v3"});

  EXPECT_EQ(tensors.at("model.layers.0.mlp.up_proj.weight").encoding, SourceEncoding::kBytes);
  EXPECT_EQ(tensors.at("model.layers.1.mlp.experts.7.down_proj.weight").encoding, SourceEncoding::kBytes);
  EXPECT_EQ(tensors.at("model.layers.1.self_attn.kv_a_proj_with_mqa.weight").header.shape,
            (std::vector<std::int64_t>{80, 256}));
  EXPECT_EQ(tensors.at("model.layers.1.mlp.gate.weight").encoding, SourceEncoding::kPlain);
  EXPECT_EQ(tensors.at("model.layers.2.eh_proj.weight").header.shape, (std::vector<std::int64_t>{256, 512}));
  EXPECT_TRUE(tensors.contains("model.layers.2.mlp.experts.0.gate_proj.weight"));
  EXPECT_TRUE(tensors.contains("model.layers.2.shared_head.head.weight"));
  EXPECT_FALSE(tensors.contains("model.layers.3.eh_proj.weight"));
  EXPECT_EQ(expert_matrices(tensors), 2U * 8 * 3);
  for (const auto& [name, tensor] : tensors) EXPECT_EQ(name.find("scale"), name.npos) << name;
}

class SynthSourcePresets : public testing::TestWithParam<std::string> {
 protected:
  std::filesystem::path make(const std::string& name, int threads) {
    const std::filesystem::path path = temp_.path() / name;
    synthesize(*fs_, path, {.preset = GetParam(), .shard_bytes = 700'000, .threads = threads}, progress_, stop_);
    return path;
  }

  test::TempDir temp_;
  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
  ProgressCounters progress_;
  StopFlag stop_;
};

/// Bytes of a stored tensor, wholly.
std::string stored(const Checkpoint& checkpoint, std::size_t index, const std::vector<ByteRange>& ranges) {
  const SourceTensor& tensor = checkpoint.tensors()[index];
  const std::string file = get_file(checkpoint.files()[static_cast<std::size_t>(tensor.file)].path);
  std::string bytes;
  for (const ByteRange& range : ranges) bytes += file.substr(tensor.offset + range.offset, range.bytes);
  return bytes;
}

TEST_P(SynthSourcePresets, DecodeToWeightsOfTheUsualSpread) {
  const Checkpoint checkpoint(*fs_, make("m", 2));
  ASSERT_GT(checkpoint.files().size(), 1U);
  std::size_t decoded = 0;
  for (const LogicalTensor& tensor : logical_tensors(checkpoint)) {
    if (tensor.encoding == SourceEncoding::kPlain) continue;
    const SourceRows rows{0, tensor.header.shape[0]};
    const RowSources sources = sources_of_rows(tensor, rows);
    const std::string data = stored(checkpoint, tensor.data, sources.data);
    const std::string scale = stored(checkpoint, *tensor.scale, sources.scale);
    std::vector<float> weights(static_cast<std::size_t>(tensor.header.elements()));
    decode_rows(tensor, rows, {std::as_bytes(std::span(data)), std::as_bytes(std::span(scale)), {}},
                std::as_writable_bytes(std::span(weights)).data());

    double squares = 0;
    for (const float weight : weights) squares += double{weight} * weight;
    EXPECT_NEAR(std::sqrt(squares / static_cast<double>(weights.size())), 0.020, 0.006) << tensor.header.name;
    ++decoded;
  }
  EXPECT_EQ(decoded > 0, GetParam() != "tiny-qwen3-moe");
}

TEST_P(SynthSourcePresets, QuantizeAllButRoutersEmbeddingsHeadsAndNorms) {
  const Checkpoint checkpoint(*fs_, make("m", 2));
  std::size_t quantized = 0;
  for (const LogicalTensor& tensor : logical_tensors(checkpoint)) {
    const bool linear = tensor.header.name.ends_with("_proj.weight") || tensor.header.name.ends_with("_mqa.weight");
    EXPECT_EQ(default_keep_reason(tensor.header, "") == KeepReason::kNone, linear) << tensor.header.name;
    quantized += linear ? 1 : 0;
  }
  const std::map<std::string, std::size_t> wanted = {{"tiny-deepseek-v3", 5 * 3 + 3 + (8 + 1) * 3 * 2 + 1},
                                                     {"tiny-qwen3-moe", 2 * (4 + 8 * 3)},
                                                     {"tiny-gpt-oss", 2 * (4 + 4 * 3)}};
  EXPECT_EQ(quantized, wanted.at(GetParam()));
}

TEST_P(SynthSourcePresets, ArePlannedByTheBytesThatTheyStore) {
  const auto path = make("m", 2);
  const std::uint64_t stored = Checkpoint(*fs_, path).tensor_bytes();
  const Checkpoint checkpoint = open_source(*fs_, path);
  const auto decisions = decide(checkpoint, parse_recipe("{}", "test"));
  const Plan plan = make_plan(checkpoint, OutputLayout(checkpoint, decisions, DType::kF16));

  EXPECT_EQ(plan.source_bytes, checkpoint.tensor_bytes());
  EXPECT_EQ(plan.source_bytes > stored, GetParam() != "tiny-qwen3-moe");
  EXPECT_NEAR(static_cast<double>(plan.read_bytes), static_cast<double>(stored), 0.001 * static_cast<double>(stored));
  std::uint64_t items = 0;
  for (const WorkItem& item : plan.items) items += item.read_bytes;
  EXPECT_EQ(items, plan.read_bytes);
}

TEST_P(SynthSourcePresets, AreTheSameFromAnyNumberOfThreads) {
  const auto one = make("one", 1), three = make("three", 3);
  for (const auto& entry : std::filesystem::directory_iterator(one)) {
    EXPECT_TRUE(get_file(entry.path()) == get_file(three / entry.path().filename())) << entry.path();
  }
}

INSTANTIATE_TEST_SUITE_P(All, SynthSourcePresets, testing::Values("tiny-deepseek-v3", "tiny-qwen3-moe", "tiny-gpt-oss"),
                         [](const auto& param_info) {
                           std::string name = param_info.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace halfquad
