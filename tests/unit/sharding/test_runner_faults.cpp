#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "kernels/decode.h"
#include "sharding/runner.h"
#include "tests/support/expect_error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/unit/sharding/hooked_solver.h"
#include "tests/unit/sharding/runner_fixture.h"

namespace halfquad {
namespace {

using test::expect_error;
using test::FaultPlan;
using test::FaultyFileSystem;
using test::HookedSolver;
using test::ModelLayer;
using test::Ran;
using test::run_options;
using test::RunnerModel;

constexpr std::uint64_t kMiB = 1 << 20;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Tells of a mean error that falls from step to step in all blocks but the one whose weights are large; that one makes
/// the tensor's mean rise at the second step, when every block counts once.
class MadeUpErrors final : public HookedSolver {
 public:
  static constexpr int kOtherBlocks = 127;
  MadeUpErrors() : HookedSolver([] {}) {}
  void solve(const GroupBlock& block, const SolveRequest& request, const SolveTarget& target,
             SolveStats& stats) override {
    SolveRequest silent = request;
    silent.record = RecordErrors::kNo;
    HookedSolver::solve(block, silent, target, stats);
    if (request.record == RecordErrors::kNo || stats.nonfinite) return;
    float first = 0;
    decode_to_f32(block.data, block.dtype, 1, &first);
    const bool large = first > 10;
    stats.step_abs[0].add(large ? 0.0F : 1.0F);
    stats.step_abs[1].add(large ? 0.15F * kOtherBlocks : 0.9F);
  }
};

/// Two layers of two tiles and two slabs; the second is the last tensor of the file.
std::vector<ModelLayer> two_layers(const QuantSpec& spec) {
  return {{"first", 64, 64, DType::kF32, spec}, {"broken", 1100, 4096, DType::kBF16, spec}};
}

/// Sets weight [row, col] of a BF16 tensor of 4096 columns.
void set_weight(std::string& bytes, std::int64_t row, std::int64_t col, float value) {
  const std::uint16_t bits = f32_to_bf16(value);
  std::memcpy(bytes.data() + (row * 4096 + col) * 2, &bits, sizeof bits);
}

std::vector<std::string> bytes_of_layers(const std::vector<ModelLayer>& layers) {
  std::vector<std::string> bytes;
  for (const ModelLayer& layer : layers) {
    bytes.push_back(test::heavy_weights(layer.module, layer.dtype, layer.rows * layer.cols));
  }
  return bytes;
}

struct BadPlace {
  std::string what;
  QuantSpec spec;
  std::int64_t row = 0, col = 0;
};

std::vector<BadPlace> bad_places() {
  const QuantSpec rows{.iters = 2};
  const QuantSpec columns{.axis = 0, .iters = 2};
  const QuantSpec tensor{.channel_wise = false};
  return {
      {"axis 1, first weight", rows, 0, 0},
      {"axis 1, second slab of the first tile", rows, 560, 77},      // grouped row 35841, slabs of 35200
      {"axis 1, first slab of the second tile", rows, 520, 4095},    // grouped row 33343, tiles of 32768
      {"axis 1, second slab of the second tile", rows, 1099, 4095},  // the last weight
      {"axis 0, inside", columns, 33, 1234},
      {"axis 0, second tile", columns, 1031, 4000},
      {"per tensor", tensor, 1099, 17},
  };
}

TEST(RunPlanNonFinite, TheErrorNamesThePlace) {
  for (const BadPlace& bad : bad_places()) {
    SCOPED_TRACE(bad.what);
    const std::vector<ModelLayer> layers = two_layers(bad.spec);
    std::vector<std::string> bytes = bytes_of_layers(layers);
    set_weight(bytes[1], bad.row, bad.col, -kInfinity);
    const RunnerModel model(layers, bytes, DType::kF16);
    const std::uint64_t behind = static_cast<std::uint64_t>((1100 * 4096 - bad.row * 4096 - bad.col) * 2);
    const std::uint64_t offset = std::filesystem::file_size(model.source_path()) - behind;

    expect_error(ErrorCode::kBadInput,
                 {"broken.weight", fmt::format("[{}, {}]", bad.row, bad.col), "model.safetensors",
                  fmt::format("offset {})", offset), "--nonfinite"},
                 [&] { static_cast<void>(model.run(run_options(2, 64 * kMiB))); });
  }
}

TEST(RunPlanNonFinite, ZeroGivesTheBytesOfACheckpointWithZerosThere) {
  for (const BadPlace& bad : bad_places()) {
    SCOPED_TRACE(bad.what);
    const std::vector<ModelLayer> layers = two_layers(bad.spec);
    std::vector<std::string> bytes = bytes_of_layers(layers);
    for (const std::int64_t row : {bad.row, std::int64_t{600}}) set_weight(bytes[1], row, bad.col, 0);
    const RunnerModel clean(layers, bytes, DType::kF16);
    set_weight(bytes[1], bad.row, bad.col, kNaN);
    set_weight(bytes[1], 600, bad.col, kInfinity);
    const RunnerModel broken(layers, bytes, DType::kF16);
    const std::string expected = clean.run(run_options(2, 64 * kMiB)).file;

    for (const std::uint64_t memory : {minimum_memory(broken.plan()), 512 * kMiB}) {
      RunOptions options = run_options(2, memory);
      options.nonfinite = NonFinite::kZero;
      const Ran ran = broken.run(options);

      EXPECT_TRUE(ran.file == expected);
      EXPECT_EQ(ran.result.tensors[0].zeroed, 0);
      EXPECT_EQ(ran.result.tensors[1].zeroed, 2);
    }
  }
}

TEST(RunPlanNonFinite, TilesReadAgainAreClearedAgainAndCountedOnce) {
  for (const bool channel_wise : {true, false}) {
    const QuantSpec spec{.width = CodeWidth::k2, .channel_wise = channel_wise, .beta = 4};
    const std::vector<ModelLayer> layers = {{"broken", 3072, 4096, DType::kBF16, spec}};  // three tiles
    std::vector<std::string> bytes = bytes_of_layers(layers);
    for (std::int64_t row = 0; row < 3072; row += 3) set_weight(bytes[0], row, row, 0);
    const RunnerModel clean(layers, bytes, DType::kF16);
    for (std::int64_t row = 0; row < 3072; row += 3) set_weight(bytes[0], row, row, kNaN);
    const RunnerModel broken(layers, bytes, DType::kF16);
    RunOptions options = run_options(2, minimum_memory(broken.plan()));
    options.nonfinite = NonFinite::kZero;

    const Ran ran = broken.run(options);

    EXPECT_GT(ran.result.tiles_reread, 0U);
    EXPECT_EQ(ran.result.tensors[0].zeroed, 1024);
    EXPECT_TRUE(ran.file == clean.run(options).file);
  }
}

TEST(RunPlanNonFinite, StepErrorsAreNotCountedTwiceWhenATileStartsAnew) {
  const QuantSpec spec{.iters = 3};
  const std::vector<ModelLayer> layers = {{"broken", 1024, 4096, DType::kBF16, spec}};
  std::vector<std::string> bytes = bytes_of_layers(layers);
  for (std::int64_t col = 0; col < 4096; ++col) set_weight(bytes[0], 1008, col, 20);  // first of the last strip's slab
  set_weight(bytes[0], 1023, 4095, kNaN);
  const RunnerModel model(layers, bytes, DType::kF16);
  RunOptions options = run_options(1, 64 * kMiB, [] { return std::make_unique<MadeUpErrors>(); });
  options.nonfinite = NonFinite::kZero;

  const Ran ran = model.run(options);

  EXPECT_EQ(ran.result.tensors[0].zeroed, 1);
  EXPECT_EQ(ran.result.tensors[0].steps, 2);
  EXPECT_TRUE(ran.result.tensors[0].stopped_early);
}

TEST(RunPlanNonFinite, ARangeBeyondFloatIsAnErrorUnderBothPolicies) {
  for (const QuantSpec& spec :
       {QuantSpec{}, QuantSpec{.axis = 0}, QuantSpec{.solver = SolverKind::kRtn}, QuantSpec{.channel_wise = false}}) {
    const std::vector<ModelLayer> layers = {{"wide", 64, 64, DType::kF32, spec}};
    std::vector<std::string> bytes = bytes_of_layers(layers);
    // Of one group for either axis: neighbours, and columns 0 of two rows.
    for (const auto& [index, value] : {std::pair{0, 3e38F}, {1, -3e38F}, {64, -3e38F}, {65, kNaN}}) {
      std::memcpy(bytes[0].data() + index * 4, &value, sizeof value);
    }
    const RunnerModel model(layers, bytes, DType::kF32);
    RunOptions options = run_options(1, 64 * kMiB);
    options.nonfinite = NonFinite::kZero;

    expect_error(ErrorCode::kBadInput, {"wide", "beyond fp32", "--skip"},
                 [&] { static_cast<void>(model.run(options)); });

    const float small = 1;
    std::memcpy(bytes[0].data() + 65 * 4, &small, sizeof small);
    const RunnerModel finite(layers, bytes, DType::kF32);
    options.nonfinite = NonFinite::kError;
    expect_error(ErrorCode::kBadInput, {"wide", "beyond fp32", "--skip"},
                 [&] { static_cast<void>(finite.run(options)); });
  }
}

TEST(RunPlanNonFinite, AZeroThatDoesNotFitTheStoredDtypeIsAClearError) {
  for (const QuantSpec& spec : {QuantSpec{}, QuantSpec{.axis = 0}, QuantSpec{.channel_wise = false}}) {
    const std::vector<ModelLayer> layers = {{"far", 64, 64, DType::kF32, spec}};
    std::vector<float> values(64 * 64);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = 1000.0F + 0.001F * static_cast<float>((i + i / 64) % 7);
    const std::vector<std::string> bytes = {test::f32_tensor("far", {64, 64}, values).bytes};
    const RunnerModel half(layers, bytes, DType::kF16);
    const RunnerModel single(layers, bytes, DType::kF32);

    expect_error(ErrorCode::kBadInput, {"far", "zero", "does not fit F16", "--scale-dtype f32"},
                 [&] { static_cast<void>(half.run(run_options(1, 64 * kMiB))); });
    EXPECT_NO_THROW(static_cast<void>(single.run(run_options(1, 64 * kMiB))));
  }
}

const RunnerModel& four_tiles() {
  static const RunnerModel model({{"long", 4096, 4096, DType::kBF16, {.iters = 4}}}, std::vector<test::TestTensor>{});
  return model;
}

TEST(RunPlanStop, ARequestBeforeTheStartEndsItAtOnce) {
  StopFlag stop;
  stop.request();

  expect_error(ErrorCode::kInterrupted, {"interrupted"},
               [&] { static_cast<void>(four_tiles().run(run_options(3, 1024 * kMiB), nullptr, &stop)); });
}

TEST(RunPlanStop, ARequestInTheMiddleEndsItWithinOneTilePerWorker) {
  for (const int threads : {1, 3}) {
    for (const int after : {1, 5, 100, 200}) {
      SCOPED_TRACE(fmt::format("{} threads, block {}", threads, after));
      StopFlag stop;
      std::atomic<int> blocks = 0;
      const auto hook = [&] {
        if (++blocks == after) stop.request();
      };

      expect_error(ErrorCode::kInterrupted, {"interrupted"}, [&] {
        const auto options = run_options(threads, 1024 * kMiB, [&] { return std::make_unique<HookedSolver>(hook); });
        static_cast<void>(four_tiles().run(options, nullptr, &stop));
      });
      EXPECT_LE(blocks, after + threads * 66);  // 64 blocks a tile: 32 strips of two slabs
    }
  }
}

TEST(RunPlanStop, ARequestFromAnotherThreadEndsIt) {
  StopFlag stop;
  std::atomic<bool> started = false;
  std::jthread stopper([&] {
    while (!started) std::this_thread::yield();
    stop.request();
  });

  expect_error(ErrorCode::kInterrupted, {"interrupted"}, [&] {
    const auto options = run_options(2, minimum_memory(four_tiles().plan()),
                                     [&] { return std::make_unique<HookedSolver>([&] { started = true; }); });
    static_cast<void>(four_tiles().run(options, nullptr, &stop));
  });
}

TEST(RunPlanFaults, AnErrorOfASolverEndsTheRunAndIsThrown) {
  for (const int at : {1, 150}) {
    std::atomic<int> blocks = 0;
    const auto hook = [&] {
      if (++blocks == at) throw Error(ErrorCode::kInternal, "the solver broke");
    };
    const auto options = run_options(3, 64 * kMiB, [&] { return std::make_unique<HookedSolver>(hook); });

    expect_error(ErrorCode::kInternal, {"the solver broke"}, [&] { static_cast<void>(four_tiles().run(options)); });
  }
}

TEST(RunPlanFaults, AWorkerThatCannotBeMadeEndsTheRun) {
  std::atomic<int> made = 0;
  const auto options = run_options(3, 1024 * kMiB, [&]() -> std::unique_ptr<Solver> {
    if (++made == 2) throw Error(ErrorCode::kUsage, "no such solver");
    return make_simd_solver();
  });

  expect_error(ErrorCode::kUsage, {"no such solver"}, [&] { static_cast<void>(four_tiles().run(options)); });
}

/// Fails one call a run, every `step`-th of a run with these options.
void fail_everywhere(const RunnerModel& model, const RunOptions& options, std::uint64_t step) {
  const auto count = std::make_shared<FaultPlan>();
  FaultyFileSystem counting(model.files(), count);
  static_cast<void>(model.run(options, &counting));
  ASSERT_GT(count->calls(), 8U);
  for (std::uint64_t call = 1; call <= count->calls(); call += step) {
    for (const test::After after : {test::After::kWorks, test::After::kDead}) {
      const auto plan = std::make_shared<FaultPlan>(call, after);
      FaultyFileSystem faulty(model.files(), plan);

      // When the disk is gone for good, the first failing call is not always the first to be told of.
      const std::string told = after == test::After::kWorks ? fmt::format("at call {}:", call) : "at call";
      expect_error(ErrorCode::kIo, {"injected fault", told}, [&] { static_cast<void>(model.run(options, &faulty)); });
      EXPECT_TRUE(plan->fired());
    }
  }
}

TEST(RunPlanFaults, EveryFailingCallOfTheFileSystemEndsTheRunWithItsError) {
  const RunnerModel model(test::small_layers(), {test::random_tensor("kept", DType::kI8, {70})});

  fail_everywhere(model, run_options(1, 64 * kMiB), 17);
  fail_everywhere(model, run_options(3, 64 * kMiB), 29);
}

TEST(RunPlanFaults, FailingCallsWhileTilesAreGivenUpEndTheRun) {
  fail_everywhere(four_tiles(), run_options(2, minimum_memory(four_tiles().plan())), 7);
}

TEST(RunPlanFaults, AFileCutSinceItsHeaderWasReadIsAShortFile) {
  const RunnerModel model({{"cut", 64, 64, DType::kF32, {}}}, std::vector<test::TestTensor>{});
  std::filesystem::resize_file(model.source_path(), std::filesystem::file_size(model.source_path()) - 1);

  expect_error(ErrorCode::kIo, {"model.safetensors", "short", "offset"},
               [&] { static_cast<void>(model.run(run_options(2, 64 * kMiB))); });
}

TEST(RunPlanFaults, ABudgetBelowOneItemIsAnErrorAndNoHang) {
  expect_error(ErrorCode::kOutOfMemory, {"--memory"},
               [&] { static_cast<void>(four_tiles().run(run_options(2, 1 * kMiB))); });
}

}  // namespace
}  // namespace halfquad
