#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/posix_file_system.h"
#include "preset_plan.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

TEST(SynthModel, HasTheParametersOfTheLargeModels) {
  EXPECT_EQ(synth_bytes({.preset = "llama-405b"}), 2 * 405'853'388'800U);
  // The published 671.03 and 1026.41 billion.
  EXPECT_EQ(synth_bytes({.preset = "deepseek-671b"}) / 2 / 10'000'000, 67'102U);
  EXPECT_EQ(synth_bytes({.preset = "kimi-1t"}) / 2 / 10'000'000, 102'640U);
}

TEST(SynthModel, BeginsWithDenseLayersAndGoesOnWithExperts) {
  const std::unique_ptr<FileSystem> beneath = make_posix_file_system();
  const auto files = preset_files(*beneath, synth_model({.preset = "deepseek-671b", .layers = 4}));
  const Checkpoint checkpoint(*files, kPresetDirectory);
  using Shape = std::vector<std::int64_t>;

  EXPECT_EQ(checkpoint.find("model.layers.2.mlp.up_proj.weight")->shape, (Shape{18432, 7168}));
  EXPECT_EQ(checkpoint.find("model.layers.3.mlp.up_proj.weight"), nullptr);
  EXPECT_EQ(checkpoint.find("model.layers.3.mlp.experts.255.down_proj.weight")->shape, (Shape{7168, 2048}));
  EXPECT_EQ(checkpoint.find("model.layers.3.mlp.gate.weight")->shape, (Shape{256, 7168}));
  EXPECT_EQ(checkpoint.find("model.layers.0.self_attn.q_b_proj.weight")->shape, (Shape{128 * 192, 1536}));
  EXPECT_EQ(checkpoint.find("model.layers.0.self_attn.kv_b_proj.weight")->shape, (Shape{128 * 256, 512}));
  EXPECT_EQ(checkpoint.config()->at("model_type").as_string(), "deepseek_v3");
  EXPECT_EQ(checkpoint.config()->at("n_routed_experts").as_int64(), 256);
}

TEST(PresetFiles, ShowTheCheckpointThatSynthesizeWrites) {
  const test::TempDir temp;
  const std::unique_ptr<FileSystem> beneath = make_posix_file_system();
  const SynthOptions options{.layers = 2, .shard_bytes = 1'000'000};
  ProgressCounters progress;
  const StopFlag stop;
  synthesize(*beneath, temp.path() / "m", options, progress, stop);
  const auto files = preset_files(*beneath, synth_model(options));

  const Checkpoint written(*beneath, temp.path() / "m");
  const Checkpoint shown(*files, kPresetDirectory);

  ASSERT_EQ(shown.files().size(), written.files().size());
  ASSERT_GT(shown.files().size(), 1U);
  for (std::size_t i = 0; i < shown.files().size(); ++i) {
    EXPECT_EQ(shown.files()[i].name, written.files()[i].name);
    EXPECT_EQ(shown.files()[i].bytes, written.files()[i].bytes);
    EXPECT_EQ(shown.files()[i].header_digest, written.files()[i].header_digest);
  }
  EXPECT_EQ(shown.config(), written.config());
}

TEST(PresetFiles, HaveNoWeightsAndTakeNone) {
  const std::unique_ptr<FileSystem> beneath = make_posix_file_system();
  const auto files = preset_files(*beneath, synth_model({}));
  const auto file = files->open_read(std::filesystem::path(kPresetDirectory) / "model.safetensors", ReadMode::kAuto);
  std::vector<std::byte> scratch(4096 + ReadFile::kSlack);

  test::expect_error(ErrorCode::kUsage, {"model.safetensors", "halfquad synth"},
                     [&] { (void)file->read(file->size() - 10, 10, scratch); });
  test::expect_error(ErrorCode::kInternal, {"/elsewhere"},
                     [&] { (void)files->create("/elsewhere", WriteMode::kBuffered); });
}

}  // namespace
}  // namespace halfquad
