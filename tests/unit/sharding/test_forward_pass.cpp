// The forward pass against transformers' on tiny models of every family, and against itself on any number of ranks.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "io/aligned_scratch.h"
#include "io/posix_file_system.h"
#include "kernels/fused_gemm.h"
#include "kernels/solver.h"
#include "runtime/communicator.h"
#include "sharding/forward/forward_pass.h"
#include "sharding/open_checkpoint.h"
#include "sharding/source_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

using Path = std::filesystem::path;

const Path kGoldens = Path(HALFQUAD_GOLDEN_DIR) / "forward";
const std::vector<std::string> kFamilies = {"llama",  "mistral",     "qwen2",   "qwen3",     "phi3",     "gemma",
                                            "gemma2", "gemma3_text", "mixtral", "qwen3_moe", "qwen2_moe"};

class ForwardPass : public ::testing::Test {
 protected:
  ModelPower measure(const Path& folder, RankExchange& exchange, int threads = 1, FusedMultiply multiply = nullptr) {
    const Checkpoint checkpoint = open_source(*files_, folder);
    const DecoderModel model = bind_decoder(checkpoint);
    const TokenBatch batch = read_tokens(*files_, folder / "tokens.txt", model.vocabulary());
    return measure(checkpoint, model, batch, exchange, threads, multiply);
  }
  ModelPower measure(const Checkpoint& checkpoint, const DecoderModel& model, const TokenBatch& batch,
                     RankExchange& exchange, int threads, FusedMultiply multiply) {
    ForwardOptions options;
    options.threads = threads;
    options.memory_bytes = 256 << 20;
    options.multiply = multiply == nullptr ? fused_multiply() : multiply;
    ProgressCounters progress;
    ModelPower power = measure_inputs(*files_, checkpoint, model, batch, options, exchange, progress, stop_);
    const ProgressTotals totals = forward_totals(model);  // every rank sees what all have done
    EXPECT_EQ(progress.weights_done.load(), totals.weights);
    EXPECT_EQ(progress.source_bytes_done.load(), totals.source_bytes);
    EXPECT_EQ(progress.tensors_done.load(), totals.tensors);
    return power;
  }
  ModelPower measure_alone(const Path& folder, int threads = 1, FusedMultiply multiply = nullptr) {
    const auto communicator = make_single_communicator();
    RankExchange exchange(*communicator, "host", stop_);
    return measure(folder, exchange, threads, multiply);
  }
  ModelPower measure_batch(const std::string& family, const std::string& tokens) {
    const Checkpoint checkpoint = open_source(*files_, kGoldens / family);
    const DecoderModel model = bind_decoder(checkpoint);
    test::put_file(directory_.path() / "ids.txt", tokens);
    const TokenBatch batch = read_tokens(*files_, directory_.path() / "ids.txt", model.vocabulary());
    const auto communicator = make_single_communicator();
    RankExchange exchange(*communicator, "host", stop_);
    return measure(checkpoint, model, batch, exchange, 1, nullptr);
  }

  /// The vectors of a safetensors file, by name.
  std::map<std::string, std::vector<float>> vectors(const Path& path) {
    const Checkpoint checkpoint(*files_, path);
    const OpenCheckpoint files(*files_, checkpoint, ReadMode::kBuffered);
    std::map<std::string, std::vector<float>> all;
    const AlignedScratch scratch(OpenCheckpoint::kScratchBytes);
    for (const SourceTensor& tensor : checkpoint.tensors()) {
      std::vector<float>& values = all[tensor.name];
      values.resize(static_cast<std::size_t>(tensor.elements()));
      const ByteRange range{0, tensor.bytes};
      files.gather(tensor, {&range, 1}, scratch.bytes(), reinterpret_cast<std::byte*>(values.data()));
    }
    return all;
  }

  /// A copy of a family's model with another config.json or one tensor under another name of the same length.
  Path changed(const std::string& family, const std::string& file, const std::string& from, const std::string& to) {
    const Path copy = directory_.path() / family;
    std::filesystem::remove_all(copy);
    std::filesystem::copy(kGoldens / family, copy);
    std::string text = test::get_file(copy / file);
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos);
    test::put_file(copy / file, text.replace(at, from.size(), to));
    return copy;
  }

  std::unique_ptr<FileSystem> files_ = make_posix_file_system();
  test::TempDir directory_;
  StopFlag stop_;
};

bool same(const ModelPower& a, const ModelPower& b) {
  if (a.modules.size() != b.modules.size()) return false;
  for (std::size_t i = 0; i < a.modules.size(); ++i) {
    const auto &x = a.modules[i].mean_squares, &y = b.modules[i].mean_squares;
    if (a.modules[i].module != b.modules[i].module || x.size() != y.size()) return false;
    if (std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) != 0) return false;
  }
  return true;
}

TEST_F(ForwardPass, MeasuresWhatTransformersMeasures) {
  constexpr double kTolerance = 1e-4;  // relative, of fp32 sums in another order
  for (const std::string& family : kFamilies) {
    SCOPED_TRACE(family);
    const auto wanted = vectors(kGoldens / family / "expected.safetensors");
    const ModelPower power = measure_alone(kGoldens / family);
    EXPECT_EQ(power.modules.size(), wanted.size());
    double worst = 0;
    for (const InputPower& found : power.modules) {
      const auto known = wanted.find(found.module);
      ASSERT_NE(known, wanted.end()) << found.module;
      ASSERT_EQ(found.mean_squares.size(), known->second.size()) << found.module;
      for (std::size_t i = 0; i < known->second.size(); ++i) {
        const double error = std::abs(double{found.mean_squares[i]} / double{known->second[i]} - 1);
        EXPECT_LT(error, kTolerance) << found.module << " channel " << i;
        worst = std::max(worst, error);
      }
    }
    RecordProperty(family, std::to_string(worst));
  }
}

TEST_F(ForwardPass, ThreadsAndInstructionSetsDoNotChangeTheBytes) {
  for (const char* family : {"qwen2", "qwen2_moe"}) {
    const ModelPower one = measure_alone(kGoldens / family);
    EXPECT_TRUE(same(measure_alone(kGoldens / family, 3), one));
    EXPECT_TRUE(same(measure_alone(kGoldens / family, 1, multiply_fused_plain), one));
  }
}

TEST_F(ForwardPass, RanksDoNotChangeTheBytes) {
  for (const char* family : {"phi3", "qwen3_moe"}) {
    const ModelPower alone = measure_alone(kGoldens / family);
    for (const int ranks : {2, 5}) {
      auto communicators = make_thread_communicators(ranks);
      std::vector<std::thread> threads;
      for (auto& communicator : communicators) {
        threads.emplace_back([&, family] {
          RankExchange exchange(*communicator, "host", stop_);
          EXPECT_TRUE(same(measure(kGoldens / family, exchange), alone)) << family << " on " << ranks;
          communicator.reset();
        });
      }
      for (std::thread& thread : threads) thread.join();
    }
  }
}

TEST_F(ForwardPass, AnExpertThatFewTokensReachMeasuresOthersToo) {
  const ModelPower power = measure_batch("qwen3_moe", "1 2 3 4\n5 6 7 8\n");
  EXPECT_EQ(power.experts, 8);
  EXPECT_GT(power.filled_experts, 0);
  for (const InputPower& module : power.modules) {
    for (const float value : module.mean_squares) EXPECT_GT(value, 0) << module.module;
  }
}

TEST_F(ForwardPass, WhatIsNotKnownIsRefused) {
  const auto refuse = [&](ErrorCode code, const Path& folder, std::initializer_list<std::string_view> parts) {
    test::expect_error(code, parts, [&] { static_cast<void>(measure_alone(folder)); });
  };
  refuse(ErrorCode::kBadInput,
         changed("qwen2", "config.json", "\"model_type\": \"qwen2\"", "\"model_type\": \"mamba\""),
         {"no forward pass is known for model_type \"mamba\"", "llama", "--importance weights"});
  refuse(ErrorCode::kBadInput, changed("qwen2", "config.json", "\"silu\"", "\"relu\""), {"no activation \"relu\""});
  refuse(ErrorCode::kBadInput, changed("llama", "config.json", "\"rope_type\": \"llama3\"", "\"rope_type\": \"yarn\""),
         {"no rotary embeddings of type \"yarn\""});
  refuse(ErrorCode::kBadInput, changed("qwen2", "config.json", "\"hidden_size\": 32", "\"hidden_size\": 48"),
         {"has shape", "as config.json says"});
  refuse(ErrorCode::kBadInput,
         changed("qwen3", "model.safetensors", "layers.1.self_attn.q_norm", "layers.1.self_attn.qQnorm"),
         {"\"model.layers.1.self_attn.qQnorm.weight\" has no part in the forward pass"});
  refuse(ErrorCode::kBadInput,
         changed("qwen3", "model.safetensors", "layers.1.self_attn.k_proj", "layers.1.self_attn.kKproj"),
         {"no tensor \"model.layers.1.self_attn.k_proj.weight\""});
  test::expect_error(ErrorCode::kUsage, {"a sequence has 33 tokens", "up to 32"}, [&] {
    std::string line;
    for (int i = 0; i < 33; ++i) line += "1 ";
    static_cast<void>(measure_batch("mistral", line));
  });
}

TEST_F(ForwardPass, ANanInAWeightIsNamed) {
  const Path copy = changed("qwen2", "config.json", "\"model_type\"", "\"model_type\"");
  std::string bytes = test::get_file(copy / "model.safetensors");
  const Checkpoint checkpoint(*files_, copy);
  const SourceTensor& tensor = *checkpoint.find("model.layers.1.mlp.up_proj.weight");
  bytes.replace(tensor.offset + 2 * 77, 2, "\xc0\x7f");
  test::put_file(copy / "model.safetensors", bytes);
  test::expect_error(ErrorCode::kBadInput, {"\"model.layers.1.mlp.up_proj.weight\"", "NaN", "element 77"},
                     [&] { static_cast<void>(measure_alone(copy)); });
}

}  // namespace
}  // namespace halfquad
