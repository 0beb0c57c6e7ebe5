#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/decode.h"
#include "sharding/device_set.h"
#include "tests/support/expect_error.h"
#include "tests/support/fake_devices.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/sharding/hooked_solver.h"
#include "tests/unit/sharding/runner_fixture.h"

namespace halfquad {
namespace {

using test::FakeDevices;
using test::FakeFaults;
using test::Ran;
using test::run_options;
using test::RunnerModel;

constexpr std::uint64_t kMiB = 1 << 20;

const RunnerModel& large_model() {
  static const RunnerModel model(test::large_layers(), test::kept_tensors());
  return model;
}

const RunnerModel& small_model() {
  static const RunnerModel model(test::small_layers(), test::kept_tensors());
  return model;
}

const RunnerModel& coded_model() {
  static const RunnerModel model(test::coded_layers(), test::scales_of(test::coded_layers()));
  return model;
}

/// A run with devices, and what they said.
struct DeviceRun {
  explicit DeviceRun(int devices, FakeFaults faults = {}, int streams = 2) : module(devices, std::move(faults)) {
    DeviceSetOptions options;
    options.streams = streams;
    options.make_host_solver = [] { return make_simd_solver(); };
    options.warn = [this](const std::string& text) {
      const std::lock_guard lock(mutex);
      warnings.push_back(text);
    };
    set = std::make_unique<DeviceSet>(module, module.devices(), std::move(options));
  }

  [[nodiscard]] Ran run(const RunnerModel& model, std::uint64_t memory = 256 * kMiB, int threads = 1,
                        std::function<std::unique_ptr<Solver>()> host = {}) {
    RunOptions options = run_options(threads, memory, std::move(host));
    options.devices = set.get();
    return model.run(options);
  }

  FakeDevices module;
  std::mutex mutex;
  std::vector<std::string> warnings;
  std::unique_ptr<DeviceSet> set;
};

void expect_same(const RunnerModel& model, const Ran& ran) {
  const Ran alone = model.run(run_options(1, 256 * kMiB));
  EXPECT_EQ(ran.file == alone.file, true);
  EXPECT_EQ(ran.result.checksums, alone.result.checksums);
  ASSERT_EQ(ran.result.tensors.size(), alone.result.tensors.size());
  for (std::size_t i = 0; i < ran.result.tensors.size(); ++i) {
    EXPECT_TRUE(ran.result.tensors[i].error.abs == alone.result.tensors[i].error.abs) << i;
    EXPECT_TRUE(ran.result.tensors[i].error.square == alone.result.tensors[i].error.square) << i;
    EXPECT_EQ(ran.result.tensors[i].error.max_abs, alone.result.tensors[i].error.max_abs) << i;
    EXPECT_EQ(ran.result.tensors[i].steps, alone.result.tensors[i].steps) << i;
  }
  EXPECT_EQ(ran.weights_done, alone.weights_done);
  EXPECT_EQ(ran.source_bytes_done, alone.source_bytes_done);
}

TEST(RunnerDevices, SolveEveryKindOfLayerAsTheHostDoes) {
  for (const RunnerModel* model : {&small_model(), &large_model()}) {
    DeviceRun devices(2);
    RunOptions options = run_options(1, 256 * kMiB);
    options.devices = devices.set.get();
    options.devices_only = true;

    const Ran ran = model->run(options);

    expect_same(*model, ran);
    // Tensors quantized as a whole are read and solved in one go, the first time for their range alone.
    EXPECT_EQ(ran.result.device_weights, ran.weights_done);
    EXPECT_THAT(devices.warnings, testing::IsEmpty());
  }
}

// All but the tiles of columns, which the host decodes.
TEST(RunnerDevices, DecodeWhatTheCheckpointStores) {
  DeviceRun devices(2);
  RunOptions options = run_options(1, 256 * kMiB);
  options.devices = devices.set.get();
  options.devices_only = true;

  const Ran ran = coded_model().run(options);

  expect_same(coded_model(), ran);
  EXPECT_EQ(ran.result.device_weights, ran.weights_done);
  EXPECT_GE(devices.module.coded_tiles(), 8) << "one is the self-check's";
}

TEST(RunnerDevices, LeaveWhatTheyWereToDecodeToTheHost) {
  for (int at = 1; at <= 5; ++at) {
    DeviceRun devices(1, {.lost_at = {{0, at}}});

    expect_same(coded_model(), devices.run(coded_model()));
  }
  const std::uint64_t least = minimum_memory(coded_model().plan());
  DeviceRun devices(2);
  expect_same(coded_model(), devices.run(coded_model(), least));
}

TEST(RunnerDevices, ClearCodesThatAreNotNumbersOnce) {
  const std::vector<test::ModelLayer> layers = {{"a", 128, 128, DType::kF8E4M3, QuantSpec{.beta = 4}}};
  std::vector<test::TestTensor> tensors = test::scales_of(layers);
  RunnerModel model(layers, tensors);
  std::string bytes = test::get_file(model.source_path());
  bytes[bytes.size() - 4 - 128 * 128 + 5000] = '\x7F';
  test::put_file(model.source_path(), bytes);
  DeviceRun devices(1);
  RunOptions options = run_options(1, 256 * kMiB);
  options.nonfinite = NonFinite::kZero;
  const Ran alone = model.run(options);
  options.devices = devices.set.get();
  options.devices_only = true;

  const Ran ran = model.run(options);

  EXPECT_TRUE(ran.file == alone.file);
  EXPECT_EQ(ran.result.tensors[0].zeroed, 1);
  EXPECT_EQ(alone.result.tensors[0].zeroed, 1);
}

TEST(RunnerDevices, ShareTheTilesWithTheHost) {
  for (const int threads : {1, 3}) {
    for (const int count : {1, 4}) {
      DeviceRun devices(count);

      expect_same(large_model(), devices.run(large_model(), 512 * kMiB, threads));
    }
  }
}

TEST(RunnerDevices, KeepTheBytesWhenMemoryIsShort) {
  const std::uint64_t least = minimum_memory(large_model().plan());
  for (const std::uint64_t memory : {least, 2 * least, 48 * kMiB}) {
    DeviceRun devices(2);

    expect_same(large_model(), devices.run(large_model(), memory));
  }
}

TEST(RunnerDevices, TakeSmallTilesTogether) {
  std::size_t largest = 0;
  for (int i = 0; i < 50 && largest <= 1; ++i) {  // how many wait for the device when it asks, time decides
    DeviceRun devices(1, {}, 1);

    const Ran ran = devices.run(small_model(), 512 * kMiB, 1, make_reference_solver);  // slow: most is the device's

    expect_same(small_model(), ran);
    largest = devices.module.largest_batch();
  }
  EXPECT_GT(largest, 1U);
}

TEST(RunnerDevices, LockTheBuffersTheyReadAndLetThemGo) {
  DeviceRun devices(1);

  const Ran ran = devices.run(large_model());

  EXPECT_EQ(devices.module.most_locked_bytes(), ran.result.peak_buffer_bytes);
  EXPECT_EQ(devices.module.locked_bytes(), 0U);
}

TEST(RunnerDevices, WorkOnWithoutLockedBuffersAfterOneWarning) {
  DeviceRun devices(2, {.no_page_locks = true});

  expect_same(large_model(), devices.run(large_model()));

  ASSERT_THAT(devices.warnings, testing::SizeIs(1));
  EXPECT_THAT(devices.warnings[0], testing::HasSubstr("ulimit -l"));
}

TEST(RunnerDevices, AreRefusedWhenTheirBytesAreWrong) {
  DeviceRun devices(2, {.wrong = {1}});

  expect_same(large_model(), devices.run(large_model()));

  ASSERT_THAT(devices.warnings, testing::SizeIs(1));
  EXPECT_THAT(devices.warnings[0], testing::AllOf(testing::HasSubstr("device 1"), testing::HasSubstr("Fake 1"),
                                                  testing::HasSubstr("self-check: the codes of 4-bit")));
  EXPECT_EQ(devices.module.solve_calls(1), 1);
}

// At whatever call a device fails, its tiles are solved elsewhere and it is not asked again.
TEST(RunnerDevices, MayFailAtAnyCall) {
  for (int at = 1; at <= 12; ++at) {
    DeviceRun devices(1, {.lost_at = {{0, at}}});

    const Ran ran = devices.run(large_model());

    expect_same(large_model(), ran);
    const int calls = devices.module.solve_calls(0);
    if (calls < at) continue;  // it was not asked that often
    ASSERT_THAT(devices.warnings, testing::SizeIs(1)) << at;
    EXPECT_THAT(devices.warnings[0], testing::HasSubstr("fell off the bus"));
    EXPECT_LE(calls, at + 1) << "another stream may have been at work";
  }
}

/// Lets a device come in when the host begins to solve strips again, and has the host wait until it did.
class Gate {
 public:
  void await_second_solve() { opened_.get_future().wait_for(kPatience); }
  void second_solve_begins(const std::function<bool()>& device_came) {
    std::call_once(once_, [&] { opened_.set_value(); });
    const auto give_up = std::chrono::steady_clock::now() + kPatience;
    while (!device_came() && std::chrono::steady_clock::now() < give_up) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

 private:
  static constexpr std::chrono::seconds kPatience{20};
  std::promise<void> opened_;
  std::once_flag once_;
};

/// Calls a function before every block that is solved a second time.
class GatedSolver final : public test::HookedSolver {
 public:
  explicit GatedSolver(std::function<void()> before_second)
      : HookedSolver([] {}), before_second_(std::move(before_second)) {}
  void solve(const GroupBlock& block, const SolveRequest& request, const SolveTarget& target,
             SolveStats& stats) override {
    if (request.record == RecordErrors::kNo) before_second_();
    HookedSolver::solve(block, request, target, stats);
  }

 private:
  std::function<void()> before_second_;
};

// The host has solved all tiles when their tensor stops early, with some strips that need no second solve. The device
// that gets one of these tiles spoils those strips, too.
TEST(RunnerDevices, MayFailWhenSomeStripsNeedNoSecondSolve) {
  constexpr std::int64_t kRows = 3072, kCols = 4096, kSlabRows = kRows / 4;
  std::string bytes = test::heavy_weights("a", DType::kBF16, kRows * kCols);
  // Half of the strips lie on a grid already: 0, 1/1024, 2/1024, 3/1024.
  std::string easy;
  for (std::int64_t col = 0; col < kCols; ++col) {
    const std::uint16_t weight = f32_to_bf16(static_cast<float>(col % 4) / 1024.0F);
    easy.append(reinterpret_cast<const char*>(&weight), sizeof weight);
  }
  for (std::int64_t row = 0; row < kRows; ++row) {
    if (row % kSlabRows % 64 < 32) bytes.replace(static_cast<std::size_t>(row * kCols * 2), easy.size(), easy);
  }
  const std::vector<test::ModelLayer> layers = {
      {"a", kRows, kCols, DType::kBF16, QuantSpec{.width = CodeWidth::k2, .beta = 4}}};
  const RunnerModel model(layers, {bytes}, DType::kF16);
  Gate gate;
  DeviceRun devices(1, {.lost_at = {{0, 2}}, .before_open = [&] { gate.await_second_solve(); }}, 1);

  const Ran ran = devices.run(model, 256 * kMiB, 1, [&] {
    return std::make_unique<GatedSolver>(
        [&] { gate.second_solve_begins([&] { return devices.module.solve_calls(0) >= 2; }); });
  });

  expect_same(model, ran);
  EXPECT_EQ(devices.module.solve_calls(0), 2);
  EXPECT_THAT(devices.warnings, testing::SizeIs(1));
}

TEST(RunnerDevices, MayAllFail) {
  DeviceRun devices(3, {.lost_at = {{0, 2}, {1, 2}, {2, 3}}});

  expect_same(large_model(), devices.run(large_model()));
}

TEST(RunnerDevices, ThatWereToSolveAloneAreReplacedByTheHost) {
  DeviceRun devices(2, {.lost_at = {{0, 1}, {1, 3}}});
  RunOptions options = run_options(1, 256 * kMiB);
  options.devices = devices.set.get();
  options.devices_only = true;

  expect_same(large_model(), large_model().run(options));
}

TEST(RunnerDevices, UseFewerStreamsWhenTheirMemoryIsShort) {
  DeviceRun devices(1, {.most_solvers = {{0, 1}}}, 3);
  RunOptions options = run_options(1, 512 * kMiB);
  options.devices = devices.set.get();
  options.devices_only = true;

  const Ran ran = large_model().run(options);

  expect_same(large_model(), ran);
  EXPECT_EQ(ran.result.device_weights, ran.weights_done);
  ASSERT_THAT(devices.warnings, testing::SizeIs(1));
  EXPECT_THAT(devices.warnings[0], testing::HasSubstr("for 1 of 3 streams"));
}

TEST(RunnerDevices, LeaveAllToTheHostWhenTheyHaveNoMemory) {
  DeviceRun devices(1, {.most_solvers = {{0, 0}}}, 3);

  const Ran ran = devices.run(large_model(), 512 * kMiB);

  expect_same(large_model(), ran);
  EXPECT_EQ(ran.result.device_weights, 0U);
  ASSERT_THAT(devices.warnings, testing::SizeIs(1));
  EXPECT_THAT(devices.warnings[0], testing::HasSubstr("no memory left"));
}

TEST(RunnerDevices, LeaveWhatTheyCannotSolveToTheHost) {
  const std::vector<test::ModelLayer> layers = {{"a", 64, 128, DType::kF32, QuantSpec{}}};
  std::string bytes = test::heavy_weights("a", DType::kF32, 64 * 128);
  const float infinite = __builtin_inff();
  bytes.replace(5000, sizeof infinite, reinterpret_cast<const char*>(&infinite), sizeof infinite);
  const RunnerModel model(layers, {bytes}, DType::kF16);
  DeviceRun devices(1);
  RunOptions options = run_options(1, 256 * kMiB);
  options.devices = devices.set.get();
  options.devices_only = true;

  test::expect_error(ErrorCode::kBadInput, {"NaN or infinity", "a.weight"},
                     [&] { static_cast<void>(model.run(options)); });
  options.nonfinite = NonFinite::kZero;
  EXPECT_EQ(model.run(options).result.tensors[0].zeroed, 1);
}

TEST(RunnerDevices, TellOnceWhenTheirMemoryMakesThemSlow) {
  DeviceRun devices(1, {.most_memory = kMiB}, 3);

  expect_same(small_model(), devices.run(small_model()));

  ASSERT_THAT(devices.warnings, testing::SizeIs(1));
  EXPECT_THAT(devices.warnings[0], testing::HasSubstr("gives a stream 1.0 MiB of memory"));
}

TEST(RunnerDevices, StayWithinTheirBudget) {
  FakeDevices module(1);
  DeviceSetOptions options;
  options.streams = 2;
  options.memory_bytes = 20 * kMiB;
  options.make_host_solver = [] { return make_simd_solver(); };
  options.warn = [](const std::string&) {};
  DeviceSet set(module, module.devices(), options);

  ASSERT_NE(set.open(0), nullptr);
  ASSERT_NE(set.open(1), nullptr);

  EXPECT_THAT(module.budgets(), testing::ElementsAre(10 * kMiB, 10 * kMiB));
}

}  // namespace
}  // namespace halfquad
