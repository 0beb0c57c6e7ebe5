#include <array>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/posix_file_system.h"
#include "sharding/job_follower.h"
#include "sharding/job_leader.h"
#include "tests/support/expect_error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_checkpoint.h"

namespace halfquad {
namespace {

using testing::ElementsAre;

constexpr std::int64_t kElements = 3 << 20;  // of a tensor: three blocks
constexpr JobLimits kShort{.silence = std::chrono::milliseconds(1000),
                           .life_sign = std::chrono::milliseconds(10),
                           .wind_up = std::chrono::milliseconds(200)};

/// What is to be different about one rank.
struct Odd {
  FileSystem* fs = nullptr;
  Fingerprint fingerprint = {{"source", "a"}, {"settings", "b"}};
  bool stopped = false;
  bool absent = false;
  bool only_greets = false;
};

struct Outcome {
  std::vector<std::vector<std::size_t>> found;
  std::vector<std::optional<Error>> errors;
  std::uint64_t source_bytes_shown = 0;
  bool unanswered = false;
  double seconds = 0;
};

/// Four tensors of zeros, of which some hold an infinity at these bytes.
class ScanRanks : public testing::Test {
 protected:
  void put_model(const std::map<std::size_t, std::vector<std::size_t>>& infinities) {
    std::vector<test::TestTensor> tensors;
    for (std::size_t i = 0; i < 4; ++i) {
      tensors.push_back({fmt::format("t{}", i), DType::kBF16, {kElements}, std::string(2 * kElements, '\0')});
      const auto found = infinities.find(i);
      if (found == infinities.end()) continue;
      for (const std::size_t at : found->second) tensors[i].bytes.replace(at, 2, "\x80\x7f");
    }
    test::put_safetensors(path_, tensors);
    checkpoint_.emplace(*fs_, path_);
  }

  Outcome run(int ranks, const std::map<int, Odd>& odd = {}, JobLimits limits = {}) {
    const auto start = std::chrono::steady_clock::now();
    auto communicators = make_thread_communicators(ranks);
    Outcome outcome;
    outcome.found.resize(communicators.size());
    outcome.errors.resize(communicators.size());
    {
      std::vector<std::jthread> threads;
      for (int rank = 1; rank < ranks; ++rank) {
        threads.emplace_back([&, rank] { follow(*communicators[at(rank)], odd_rank(odd, rank), limits, outcome); });
      }
      lead(*communicators[0], odd_rank(odd, 0), limits, outcome);
    }
    outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return outcome;
  }

  static void expect_all_ended(const Outcome& outcome, ErrorCode code) {
    for (const auto& error : outcome.errors) {
      ASSERT_TRUE(error);
      EXPECT_EQ(static_cast<int>(error->code()), static_cast<int>(code)) << error->what();
    }
    EXPECT_LT(outcome.seconds, 5);
  }

  std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
  const std::uint64_t source_bytes_ = 4 * 2 * kElements;

 private:
  static std::size_t at(int rank) { return static_cast<std::size_t>(rank); }
  static Odd odd_rank(const std::map<int, Odd>& odd, int rank) {
    const auto found = odd.find(rank);
    return found == odd.end() ? Odd{} : found->second;
  }

  RankScan scan_of(const NonfiniteScan& scan, const Odd& odd) {
    return {.fs = odd.fs != nullptr ? *odd.fs : *fs_, .scan = scan, .threads = 2, .fingerprint = odd.fingerprint};
  }

  void lead(Communicator& communicator, const Odd& odd, JobLimits limits, Outcome& outcome) {
    StopFlag stop;
    if (odd.stopped) stop.request();
    JobLeader leader(
        communicator, "host-0", stop, [](const std::string&) {}, limits);
    try {
      const NonfiniteScan scan(*checkpoint_, kAll);
      ProgressCounters shown;
      outcome.found[0] = leader.find_nonfinite(scan_of(scan, odd), shown);
      outcome.source_bytes_shown = shown.source_bytes_done;
      leader.succeed();
    } catch (const Error& error) {
      outcome.errors[0] = error;
      outcome.unanswered = leader.fail(error);
    }
  }

  void follow(Communicator& communicator, const Odd& odd, JobLimits limits, Outcome& outcome) {
    if (odd.absent) return;
    const std::string host = fmt::format("host-{}", communicator.rank());
    if (odd.only_greets) {
      WireWriter hello;
      hello.put(host);
      write_fingerprint(hello, odd.fingerprint);
      communicator.send(message_to(0, Tag::kHello, hello));
      return;
    }
    StopFlag stop;
    if (odd.stopped) stop.request();
    JobFollower follower(communicator, host, stop, limits);
    const auto rank = at(communicator.rank());
    try {
      const NonfiniteScan scan(*checkpoint_, kAll);
      outcome.found[rank] = follower.find_nonfinite(scan_of(scan, odd));
    } catch (const Error& error) {
      try {
        outcome.errors[rank] = follower.fail(error);
      } catch (const Error& gone) {
        outcome.errors[rank] = gone;
      }
    }
  }

  static constexpr std::array<std::size_t, 4> kAll{0, 1, 2, 3};
  test::TempDir temp_;
  const std::filesystem::path path_ = temp_.path() / "m.safetensors";
  std::optional<Checkpoint> checkpoint_;
};

TEST_F(ScanRanks, EveryRankKnowsWhatAllHaveFound) {
  put_model({{0, {0, 2 * kElements - 2}}, {3, {3 << 20}}});
  for (const int ranks : {1, 2, 3, 5, 40}) {
    SCOPED_TRACE(ranks);
    const Outcome outcome = run(ranks);

    for (const auto& found : outcome.found) EXPECT_THAT(found, ElementsAre(0, 3));
    EXPECT_EQ(outcome.source_bytes_shown, source_bytes_);
  }
}

TEST_F(ScanRanks, NothingIsFoundInFiniteWeights) {
  put_model({});
  for (const auto& found : run(3).found) EXPECT_THAT(found, ElementsAre());
}

TEST_F(ScanRanks, NoRankReadsWhatAnotherReads) {
  put_model({});
  const auto plan = std::make_shared<test::FaultPlan>();
  test::FaultyFileSystem counting(*fs_, plan);

  const Outcome outcome = run(3, {{0, {.fs = &counting}}, {1, {.fs = &counting}}, {2, {.fs = &counting}}});

  EXPECT_FALSE(outcome.errors[0]);
  std::size_t reads = 0;
  for (const std::string& call : plan->log()) reads += call.starts_with("read") ? 1U : 0U;
  EXPECT_EQ(reads, 12U);  // one a block
}

TEST_F(ScanRanks, AnErrorOfOneRankEndsAllNamingRankHostAndFile) {
  put_model({});
  for (const int rank : {0, 1, 2}) {
    SCOPED_TRACE(rank);
    // The first call opens the file; a later one reads.
    test::FaultyFileSystem faulty(*fs_, std::make_shared<test::FaultPlan>(3));

    const Outcome outcome = run(3, {{rank, {.fs = &faulty}}});

    expect_all_ended(outcome, ErrorCode::kIo);
    test::expect_error(
        ErrorCode::kIo,
        {fmt::format("rank {} on \"host-{}\": tensor \"t", rank, rank), "injected fault", "m.safetensors"},
        [&] { throw *outcome.errors[0]; });
    EXPECT_FALSE(outcome.unanswered);
  }
}

TEST_F(ScanRanks, AStopOnAnyRankEndsAll) {
  put_model({});
  for (const int rank : {0, 2}) {
    const Outcome outcome = run(3, {{rank, {.stopped = true}}});

    expect_all_ended(outcome, ErrorCode::kInterrupted);
    EXPECT_FALSE(outcome.unanswered);
  }
}

TEST_F(ScanRanks, ARankWithAnotherJobIsRefusedNamingItAndTheDifference) {
  put_model({});
  const Outcome outcome = run(3, {{2, {.fingerprint = {{"source", "a"}, {"settings", "c"}}}}});

  expect_all_ended(outcome, ErrorCode::kUsage);
  test::expect_error(ErrorCode::kUsage, {"rank 2 on \"host-2\"", "settings"}, [&] { throw *outcome.errors[0]; });
}

TEST_F(ScanRanks, ARankThatFallsSilentEndsTheScan) {
  put_model({});
  for (const Odd& odd : {Odd{.absent = true}, Odd{.only_greets = true}}) {
    const Outcome outcome = run(3, {{1, odd}}, kShort);

    test::expect_error(ErrorCode::kInterrupted, {"rank 1", "silent for 1 s"}, [&] { throw outcome.errors[0].value(); });
    EXPECT_EQ(outcome.errors[2].value().code(), ErrorCode::kInterrupted);
    EXPECT_TRUE(outcome.unanswered);
    EXPECT_LT(outcome.seconds, 5);
  }
}

}  // namespace
}  // namespace halfquad
