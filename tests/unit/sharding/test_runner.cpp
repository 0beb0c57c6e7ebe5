#include <algorithm>
#include <chrono>
#include <cstring>
#include <future>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "io/block_digest.h"
#include "kernels/decode.h"
#include "sharding/runner.h"
#include "tests/support/solve_tensor.h"
#include "tests/unit/sharding/runner_fixture.h"

namespace halfquad {
namespace {

using test::Ran;
using test::run_options;
using test::RunnerModel;

constexpr std::uint64_t kMiB = 1 << 20;

std::vector<test::ModelLayer> all_layers() {
  std::vector<test::ModelLayer> layers = test::small_layers();
  const std::vector<test::ModelLayer> large = test::large_layers();
  layers.insert(layers.begin() + 4, large.begin(), large.end());
  return layers;
}

/// The large model, made once: its weights take a while.
const RunnerModel& large_model() {
  static const RunnerModel model(all_layers(), test::kept_tensors());
  return model;
}

const RunnerModel& small_model() {
  static const RunnerModel model(test::small_layers(), test::kept_tensors(), DType::kBF16);
  return model;
}

std::string stored_bytes(const std::vector<float>& values, DType dtype) {
  std::string bytes(values.size() * static_cast<std::size_t>(bytes_of(dtype)), '\0');
  encode_from_f32(values.data(), dtype, static_cast<std::int64_t>(values.size()),
                  reinterpret_cast<std::byte*>(bytes.data()));
  return bytes;
}

void expect_equal(const ErrorSums& a, const ErrorSums& b) {
  EXPECT_TRUE(a.abs == b.abs);
  EXPECT_TRUE(a.square == b.square);
  EXPECT_TRUE(a.weight2 == b.weight2);
  EXPECT_EQ(a.max_abs, b.max_abs);
}

/// Codes, scales, zeros, steps and errors of every layer are those of the whole tensor solved at once.
void expect_whole_tensor_results(const RunnerModel& model, const Ran& ran, Solver& solver) {
  const OutputLayout& layout = model.layout();
  for (std::size_t i = 0; i < layout.quantized().size(); ++i) {
    const QuantizedTensor& tensor = layout.quantized()[i];
    SCOPED_TRACE(tensor.module);
    const test::TestTensor& source = model.source()[tensor.source];
    ASSERT_EQ(source.name, tensor.module + ".weight");
    const test::SolvedTensor solved = test::solve_tensor(
        solver,
        {reinterpret_cast<const std::byte*>(source.bytes.data()), source.dtype, source.shape[0], source.shape[1]},
        tensor.spec, {.stored = layout.stored()});
    const std::vector<std::byte> packed = test::pack_tensor(solved, tensor.spec);

    const auto written = [&](std::size_t entry) { return model.tensor_bytes(ran.file, layout.entries()[entry]); };
    const std::string_view codes(reinterpret_cast<const char*>(packed.data()), packed.size());
    EXPECT_TRUE(written(tensor.codes) == codes);
    EXPECT_TRUE(written(tensor.scale) == stored_bytes(solved.scale, layout.stored()));
    EXPECT_TRUE(written(tensor.zero) == stored_bytes(solved.zero, layout.stored()));
    const TensorResult& result = ran.result.tensors[i];
    EXPECT_EQ(result.steps, solved.steps);
    EXPECT_EQ(result.stopped_early, solved.stopped_early);
    EXPECT_EQ(result.zeroed, 0);
    expect_equal(result.error, solved.final_error);
  }
}

void expect_copies(const RunnerModel& model, const Ran& ran) {
  const OutputLayout& layout = model.layout();
  for (std::size_t i = 0; i < layout.entries().size(); ++i) {
    if (layout.contents()[i].kind != OutputTensor::Kind::kCopy) continue;
    const test::TestTensor& source = model.source()[layout.contents()[i].source];
    EXPECT_EQ(layout.entries()[i].name, source.name);
    EXPECT_TRUE(model.tensor_bytes(ran.file, layout.entries()[i]) == source.bytes) << source.name;
  }
}

void expect_checksums(const RunnerModel& model, const Ran& ran) {
  const OutputLayout& layout = model.layout();
  ASSERT_EQ(ran.result.checksums.size(), layout.entries().size());
  for (std::size_t i = 0; i < layout.entries().size(); ++i) {
    BlockDigest digest(layout.contents()[i].blocks);
    digest.add(0, std::as_bytes(std::span(model.tensor_bytes(ran.file, layout.entries()[i]))));
    EXPECT_EQ(ran.result.checksums[i], digest.hex()) << layout.entries()[i].name;
  }
}

void expect_same(const Ran& a, const Ran& b) {
  EXPECT_TRUE(a.file == b.file);
  EXPECT_EQ(a.result.checksums, b.result.checksums);
  EXPECT_EQ(a.source_bytes_done, b.source_bytes_done);
  EXPECT_EQ(a.tensors_done, b.tensors_done);
  EXPECT_EQ(a.weights_done, b.weights_done);
  ASSERT_EQ(a.result.tensors.size(), b.result.tensors.size());
  for (std::size_t i = 0; i < a.result.tensors.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(a.result.tensors[i].steps, b.result.tensors[i].steps);
    EXPECT_EQ(a.result.tensors[i].stopped_early, b.result.tensors[i].stopped_early);
    expect_equal(a.result.tensors[i].error, b.result.tensors[i].error);
  }
}

TEST(RunPlan, SmallTensorsComeOutAsTheReferenceSolvesThemWhole) {
  const Ran ran = small_model().run(run_options(2, 64 * kMiB, [] { return make_reference_solver(); }));

  expect_whole_tensor_results(small_model(), ran, *make_reference_solver());
  expect_copies(small_model(), ran);
  expect_checksums(small_model(), ran);
}

TEST(RunPlan, TensorsOfManyTilesComeOutAsIfSolvedWhole) {
  const RunnerModel& model = large_model();

  const Ran ran = model.run(run_options(2, 1024 * kMiB));

  expect_whole_tensor_results(model, ran, *make_simd_solver());
  expect_copies(model, ran);
  expect_checksums(model, ran);
  EXPECT_EQ(ran.source_bytes_done, model.plan().source_bytes);
  EXPECT_EQ(ran.tensors_done, model.checkpoint().tensors().size());
  EXPECT_EQ(ran.weights_done, model.plan().weights);
}

TEST(RunPlan, TheModelTakesEveryPath) {
  const RunnerModel& model = large_model();
  int several_tiles = 0;
  int several_copies = 0;
  for (const QuantizedTensor& tensor : model.layout().quantized()) several_tiles += tensor.tiles.tile_count() > 1;
  for (const WorkItem& item : model.plan().items) several_copies += item.kind == WorkItem::Kind::kCopy;

  const Ran roomy = model.run(run_options(2, 1024 * kMiB));
  const Ran tight = model.run(run_options(2, minimum_memory(model.plan())));

  EXPECT_EQ(several_tiles, 6);
  EXPECT_EQ(several_copies, 4);  // two blocks, the norm and the scalar; none for the empty one
  EXPECT_EQ(roomy.result.tiles_reread, 0U);
  EXPECT_GT(roomy.result.strips_redone, 0U);
  EXPECT_GT(tight.result.tiles_reread, 0U);
  int stopped = 0;
  int went_on = 0;
  for (const TensorResult& tensor : roomy.result.tensors) {
    stopped += tensor.stopped_early && tensor.steps > 1;
    went_on += !tensor.stopped_early && tensor.steps > 1;
  }
  EXPECT_GT(stopped, 0);
  EXPECT_GT(went_on, 0);
}

class RunPlanMatrix : public testing::TestWithParam<std::tuple<int, std::uint64_t, ReadMode>> {};

TEST_P(RunPlanMatrix, BytesAndErrorsDependOnNoOption) {
  const auto [threads, memory, mode] = GetParam();
  static const Ran expected = large_model().run(run_options(2, 256 * kMiB));
  RunOptions options = run_options(threads, memory > 0 ? memory : minimum_memory(large_model().plan()));
  options.read_mode = mode;

  const Ran ran = large_model().run(options);

  expect_same(ran, expected);
  EXPECT_LE(ran.result.peak_buffer_bytes, options.memory_bytes);
  EXPECT_GT(ran.result.peak_buffer_bytes, 0U);
}

INSTANTIATE_TEST_SUITE_P(Options, RunPlanMatrix,
                         testing::Combine(testing::Values(1, 2, 4), testing::Values(0, 64 * kMiB, 1024 * kMiB),
                                          testing::Values(ReadMode::kBuffered, ReadMode::kDirect)));

TEST(RunPlan, EverySimdTargetWritesTheReferencesBytes) {
  const Ran expected = small_model().run(run_options(1, 64 * kMiB, [] { return make_reference_solver(); }));
  for (const std::string& target : simd_targets()) {
    for (const std::uint64_t memory : {minimum_memory(small_model().plan()), 1024 * kMiB}) {
      SCOPED_TRACE(target);

      const Ran ran = small_model().run(run_options(2, memory, [&] { return make_simd_solver(target); }));

      expect_same(ran, expected);
    }
  }
}

TEST(RunPlan, LittleMemoryAndManyThreadsNeverBlockEachOther) {
  // Timing decides who waits for whom, so it is tried often.
  const Ran expected = small_model().run(run_options(1, 1024 * kMiB));
  for (int round = 0; round < 40; ++round) {
    const std::uint64_t memory = minimum_memory(small_model().plan()) + static_cast<std::uint64_t>(round % 4) * kMiB;

    const Ran ran = small_model().run(run_options(1 + round % 5, memory));

    ASSERT_TRUE(ran.file == expected.file) << round;
    ASSERT_LE(ran.result.peak_buffer_bytes, memory);
  }
}

// Of several ranks, one takes items of later tensors before those of earlier ones, and then, when they are decided,
// again. Chance decides who waits for whom, so it is tried often, several at a time.
TEST(RunPlan, NoOrderOfTheItemsAndNoSlownessOfOthersBlocksALittleMemory) {
  const std::vector<test::ModelLayer> large = test::large_layers();
  const std::vector<test::ModelLayer> layers = {large.at(0), large.at(4)};  // three tiles each
  const auto run_some = [&](unsigned first_seed) {
    const RunnerModel model(layers, std::vector<test::TestTensor>{});
    const Ran expected = model.run(run_options(1, 1024 * kMiB));
    const RunOptions options = run_options(1, minimum_memory(model.plan()));
    for (unsigned seed = first_seed; seed < first_seed + 25; ++seed) {
      StopFlag stop;
      auto run = std::async(std::launch::async, [&] {
        return model.run_slowly({{3, 4, 5, 0, 1, 2}, seed}, options, stop);
      });
      if (run.wait_for(std::chrono::minutes(1)) != std::future_status::ready) stop.request();
      expect_same(run.get(), expected);
    }
  };
  std::vector<std::future<void>> runs;
  for (unsigned i = 0; i < 4; ++i) runs.push_back(std::async(std::launch::async, run_some, 25 * i));
  for (std::future<void>& one : runs) one.get();
}

}  // namespace
}  // namespace halfquad
