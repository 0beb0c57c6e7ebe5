#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/checkpoint.h"
#include "io/posix_file_system.h"
#include "sharding/gaussian.h"
#include "sharding/synth.h"
#include "tests/support/expect_error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

using test::get_file;

class Synthesize : public testing::Test {
 protected:
  std::filesystem::path make(const std::string& name, const SynthOptions& options) {
    const std::filesystem::path path = temp_.path() / name;
    synthesize(*fs_, path, options, progress_, stop_);
    return path;
  }

  test::TempDir temp_;
  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
  ProgressCounters progress_;
  StopFlag stop_;
};

TEST_F(Synthesize, WritesACheckpointWithTheRealNamesAndShapes) {
  const Checkpoint checkpoint(*fs_, make("m", {}));

  EXPECT_EQ(checkpoint.tensors().size(), 3U + 4 * 9);
  EXPECT_EQ(checkpoint.find("model.embed_tokens.weight")->shape, (std::vector<std::int64_t>{512, 256}));
  EXPECT_EQ(checkpoint.find("model.layers.3.self_attn.k_proj.weight")->shape, (std::vector<std::int64_t>{128, 256}));
  EXPECT_EQ(checkpoint.find("model.layers.3.mlp.down_proj.weight")->shape, (std::vector<std::int64_t>{256, 704}));
  EXPECT_EQ(checkpoint.find("lm_head.weight")->dtype, DType::kBF16);
  EXPECT_EQ(checkpoint.config()->at("model_type").as_string(), "llama");
  EXPECT_EQ(checkpoint.config()->at("torch_dtype").as_string(), "bfloat16");
  EXPECT_EQ(checkpoint.config()->at("num_key_value_heads").as_int64(), 2);
  EXPECT_EQ(checkpoint.tensor_bytes(), synth_bytes({}));
  EXPECT_EQ(progress_.source_bytes_done, synth_bytes({}));
  EXPECT_EQ(progress_.tensors_done, checkpoint.tensors().size());
}

TEST_F(Synthesize, HasTheParametersOfTheRealModels) {
  EXPECT_EQ(synth_bytes({.preset = "llama-8b"}), 2 * 8'030'261'248U);
  EXPECT_EQ(synth_bytes({.preset = "llama-13b"}), 2 * 13'015'864'320U);
  EXPECT_EQ(synth_bytes({.preset = "llama-70b"}), 2 * 68'976'648'192U);
  EXPECT_EQ(synth_bytes({.preset = "llama-8b", .dtype = DType::kF32}), 4 * 8'030'261'248U);
}

TEST_F(Synthesize, WritesTheSameBytesFromAnyNumberOfThreads) {
  const auto one = make("one", {.threads = 1});
  const auto three = make("three", {.threads = 3});
  const auto other = make("other", {.seed = 2, .threads = 3});

  EXPECT_TRUE(get_file(one / "model.safetensors") == get_file(three / "model.safetensors"));
  EXPECT_FALSE(get_file(one / "model.safetensors") == get_file(other / "model.safetensors"));
}

TEST_F(Synthesize, WritesEachTensorsOwnStreamOfNumbers) {
  const SynthOptions options{.layers = 1, .seed = 5, .dtype = DType::kF32};
  const auto model = make("m", options);
  const Checkpoint checkpoint(*fs_, model);
  const std::string file = get_file(model / "model.safetensors");

  for (const SourceTensor& tensor : checkpoint.tensors()) {
    const bool norm = tensor.shape.size() == 1;
    std::string wanted(tensor.bytes, '\0');
    GaussianSource(5, DType::kF32, norm ? 1.0F : 0.0F, norm ? 0.1F : 0.02F)
        .fill(tensor.name, 0, std::as_writable_bytes(std::span(wanted)));
    EXPECT_TRUE(file.substr(tensor.offset, tensor.bytes) == wanted) << tensor.name;
  }
}

TEST_F(Synthesize, KeepsTensorsWhateverTheNumberOfLayers) {
  const auto bytes = [&](const std::filesystem::path& model) {
    const Checkpoint checkpoint(*fs_, model);
    const SourceTensor& tensor = *checkpoint.find("lm_head.weight");
    return get_file(model / "model.safetensors").substr(tensor.offset, tensor.bytes);
  };
  EXPECT_EQ(bytes(make("four", {})), bytes(make("one", {.layers = 1})));
}

TEST_F(Synthesize, CutsShardsWithAnIndex) {
  const auto model = make("m", {.shard_bytes = 2'000'000});

  const Checkpoint checkpoint(*fs_, model);
  EXPECT_THAT(fs_->list(model),
              testing::ElementsAre("config.json", "model-00001-of-00004.safetensors",
                                   "model-00002-of-00004.safetensors", "model-00003-of-00004.safetensors",
                                   "model-00004-of-00004.safetensors", "model.safetensors.index.json"));
  EXPECT_EQ(checkpoint.files().size(), 4U);
  for (const SourceFile& file : checkpoint.files()) EXPECT_LE(file.bytes, 2'100'000U);
  EXPECT_THAT(get_file(model / "model.safetensors.index.json"),
              testing::HasSubstr("\"total_size\": " + std::to_string(synth_bytes({}))));
}

TEST_F(Synthesize, WritesATensorLargerThanAShardAlone) {
  const Checkpoint checkpoint(*fs_, make("m", {.layers = 1, .shard_bytes = 1}));
  EXPECT_EQ(checkpoint.files().size(), checkpoint.tensors().size());
}

TEST_F(Synthesize, RefusesBadRequests) {
  const auto refuse = [&](const SynthOptions& options, std::initializer_list<std::string_view> parts) {
    test::expect_error(ErrorCode::kUsage, parts, [&] { make("m", options); });
  };
  refuse({.preset = "gpt-5"}, {"\"gpt-5\"", "llama-70b"});
  refuse({.layers = 0}, {"0 layers"});
  refuse({.dtype = DType::kF64}, {"F64"});
  refuse({.shard_bytes = 0}, {"not 0"});
  EXPECT_EQ(fs_->kind(temp_.path() / "m"), FileKind::kMissing);
}

TEST_F(Synthesize, RefusesADirectoryInUseButTakesAnEmptyOne) {
  std::filesystem::create_directory(temp_.path() / "m");
  make("m", {.layers = 1});

  test::expect_error(ErrorCode::kUsage, {"/m\"", "exists already"}, [&] { make("m", {.layers = 1}); });
}

TEST_F(Synthesize, LeavesNothingBehindWhenAnyCallFails) {
  const SynthOptions options{.layers = 1, .threads = 2};
  const auto count = std::make_shared<test::FaultPlan>();
  test::FaultyFileSystem counting(*fs_, count);
  synthesize(counting, temp_.path() / "whole", options, progress_, stop_);
  const std::string whole = get_file(temp_.path() / "whole" / "model.safetensors");

  for (std::uint64_t k = 1; k <= count->calls(); ++k) {
    const auto plan = std::make_shared<test::FaultPlan>(k);
    test::FaultyFileSystem faulty(*fs_, plan);
    const auto path = temp_.path() / "m";
    EXPECT_THROW(synthesize(faulty, path, options, progress_, stop_), Error) << plan->failed_call();
    if (fs_->kind(path) == FileKind::kDirectory) {  // only the last step, after the renaming, failed
      EXPECT_TRUE(get_file(path / "model.safetensors") == whole) << plan->failed_call();
    }
    EXPECT_EQ(fs_->kind(temp_.path() / "m.partial"), FileKind::kMissing) << plan->failed_call();
    fs_->remove_all(path);
  }
}

TEST_F(Synthesize, StopsWhenAsked) {
  stop_.request();
  test::expect_error(ErrorCode::kInterrupted, {}, [&] { make("m", {}); });
  EXPECT_EQ(fs_->kind(temp_.path() / "m"), FileKind::kMissing);
  EXPECT_EQ(fs_->kind(temp_.path() / "m.partial"), FileKind::kMissing);
}

}  // namespace
}  // namespace halfquad
