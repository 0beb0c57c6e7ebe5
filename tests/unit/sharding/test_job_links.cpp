#include <chrono>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/fake_devices.h"
#include "tests/unit/sharding/ranks_fixture.h"

namespace halfquad {
namespace {

using test::expect_ended_with;
using test::FakeDevices;
using test::FakeLinks;
using test::LinkFaults;
using test::OddRank;
using test::Ran;
using test::RanksOutcome;
using test::RanksOutput;
using test::RanksRun;
using test::run_options;
using test::RunnerModel;

constexpr std::uint64_t kMemory = 256 << 20;
constexpr JobLimits kQuick{.probe = std::chrono::milliseconds(50)};

/// Several files, which several ranks write.
const RunnerModel& model() {
  static const RunnerModel model(test::small_layers(), test::kept_tensors(), DType::kF16, 100'000);
  return model;
}

const Ran& alone() {
  static const Ran ran = model().run(run_options(1, kMemory));
  return ran;
}

/// A device for every rank of a job, each with a way to fail.
class Devices {
 public:
  explicit Devices(const std::vector<LinkFaults>& of_ranks) {
    for (const LinkFaults& faults : of_ranks) {
      modules_.emplace_back(1, FakeFaults{.links = faults}, FakeLinks::kYes);
      DeviceSetOptions options;
      options.make_host_solver = [] { return make_simd_solver(); };
      options.warn = [this](const std::string& text) {
        const std::lock_guard lock(mutex_);
        warnings_.push_back(text);
      };
      sets_.push_back(std::make_unique<DeviceSet>(modules_.back(), modules_.back().devices(), std::move(options)));
    }
  }

  /// A gathering job on all of them.
  [[nodiscard]] RanksRun job() const {
    RanksRun run{.ranks = static_cast<int>(sets_.size()),
                 .options = run_options(1, kMemory),
                 .schedule = Schedule::kStatic,  // every rank has something to send
                 .assembly = Assembly::kGather,
                 .limits = kQuick};
    for (std::size_t rank = 0; rank < sets_.size(); ++rank) {
      run.odd[static_cast<int>(rank)].devices = sets_[rank].get();
    }
    return run;
  }
  [[nodiscard]] const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  using FakeFaults = test::FakeFaults;
  std::mutex mutex_;
  std::vector<std::string> warnings_;
  std::deque<FakeDevices> modules_;
  std::vector<std::unique_ptr<DeviceSet>> sets_;
};

void expect_same(const RanksOutcome& job) {
  ASSERT_FALSE(job.error) << job.error->what();
  EXPECT_TRUE(job.file == alone().file);
  EXPECT_EQ(job.result.checksums, alone().result.checksums);
  EXPECT_EQ(test::fake_links_alive(), 0);
}

struct Received {
  std::uint64_t bytes = 0, by_link = 0;
};
Received received(const RanksOutcome& job) {
  Received sum;
  for (const RankFacts& rank : job.facts) {
    sum.bytes += rank.stats.bytes_received;
    sum.by_link += rank.stats.bytes_by_device_link;
  }
  return sum;
}

TEST(JobLinks, GatheredResultsGoFromDeviceToDevice) {
  ASSERT_GE(model().layout().files().size(), 3U);
  for (const std::size_t ranks : {2U, 3U, 4U}) {
    SCOPED_TRACE(ranks);
    const Devices devices{std::vector<LinkFaults>(ranks)};
    const RanksOutput output(model());

    const RanksOutcome job = output.run(devices.job());

    expect_same(job);
    EXPECT_GE(job.assembly.writers, 2U);
    EXPECT_GT(received(job).bytes, 0U);
    EXPECT_EQ(received(job).by_link, received(job).bytes);
    EXPECT_TRUE(devices.warnings().empty());
  }
}

TEST(JobLinks, ARankWithoutDevicesSendsAndReceivesByMpi) {
  std::uint64_t by_link = 0;  // two ranks alone may have nothing for each other
  for (const int without : {0, 1, 2}) {
    SCOPED_TRACE(without);
    const Devices devices{std::vector<LinkFaults>(3)};
    RanksRun how = devices.job();
    how.odd[without].devices = nullptr;
    const RanksOutput output(model());

    const RanksOutcome job = output.run(how);

    expect_same(job);
    by_link += received(job).by_link;
    EXPECT_LT(received(job).by_link, received(job).bytes);
    EXPECT_EQ(job.facts[static_cast<std::size_t>(without)].stats.bytes_by_device_link, 0U);
    EXPECT_TRUE(devices.warnings().empty());
  }
  EXPECT_GT(by_link, 0U);
}

TEST(JobLinks, LinksThatFailAreReplacedByMpiWithOneWarningEach) {
  for (const int rank : {0, 1, 2}) {
    for (const int piece : {0, 1, 2, 7, 20}) {
      SCOPED_TRACE(fmt::format("rank {} fails at piece {}", rank, piece));
      std::vector<LinkFaults> faults(3);
      faults[static_cast<std::size_t>(rank)].fails_at = piece;
      const Devices devices(faults);
      const RanksOutput output(model());

      const RanksOutcome job = output.run(devices.job());

      expect_same(job);
      EXPECT_LT(received(job).by_link, received(job).bytes);
      EXPECT_FALSE(devices.warnings().empty());
      EXPECT_LE(devices.warnings().size(), 4U);  // two ranks beside it, both ways
      for (const std::string& warning : devices.warnings()) {
        EXPECT_NE(warning.find(fmt::format("rank {} ", rank)), std::string::npos) << warning;
        EXPECT_NE(warning.find("injected fault"), std::string::npos) << warning;
      }
    }
  }
}

TEST(JobLinks, AStopEndsTheJobWhileLinksHang) {
  for (const int rank : {0, 1, 2}) {
    for (const int piece : {0, 3}) {
      SCOPED_TRACE(fmt::format("rank {} hangs at piece {}", rank, piece));
      std::vector<LinkFaults> faults(3);
      faults[static_cast<std::size_t>(rank)].hangs_at = piece;
      const Devices devices(faults);
      const RanksOutput output(model());
      std::vector<StopFlag> stops(3);
      RanksRun how = devices.job();
      how.stops = &stops;
      std::jthread later([&stops, rank] {
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        stops[static_cast<std::size_t>(rank)].request();
      });

      const RanksOutcome job = output.run(how);

      expect_ended_with(job, ErrorCode::kInterrupted, {"interrupted"});
      EXPECT_EQ(test::fake_links_alive(), 0);
      EXPECT_TRUE(devices.warnings().empty());
      expect_same(output.run({.ranks = 2, .options = run_options(1, kMemory), .limits = kQuick}));
    }
  }
}

TEST(JobLinks, ARankThatDiesEndsTheJobWithinSeconds) {
  constexpr JobLimits kShort{.silence = std::chrono::milliseconds(400),
                             .life_sign = std::chrono::milliseconds(50),
                             .probe = std::chrono::milliseconds(50),
                             .wind_up = std::chrono::milliseconds(300)};
  std::vector<LinkFaults> faults(3);
  faults[1].hangs_at = 2;  // as its device does, too
  const Devices devices(faults);
  const RanksOutput output(model());
  RanksRun how = devices.job();
  how.odd[1].unplugged_after = 12;
  how.limits = kShort;

  const RanksOutcome job = output.run(how);

  ASSERT_TRUE(job.error);
  test::expect_error(ErrorCode::kInterrupted, {"rank 1 on \"host-1\"", "silent"}, [&] { throw *job.error; });
  EXPECT_LT(job.seconds, 5);
  EXPECT_EQ(test::fake_links_alive(), 0);
}

}  // namespace
}  // namespace halfquad
