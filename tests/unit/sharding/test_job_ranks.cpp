#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "io/journal.h"
#include "sharding/wire.h"
#include "tests/support/expect_error.h"
#include "tests/support/faulty_file_system.h"
#include "tests/unit/sharding/hooked_solver.h"
#include "tests/unit/sharding/ranks_fixture.h"

namespace halfquad {
namespace {

using test::After;
using test::expect_ended_with;
using test::FaultPlan;
using test::FaultyFileSystem;
using test::HookedSolver;
using test::interrupted;
using test::ModelLayer;
using test::OddRank;
using test::Ran;
using test::RanksOutcome;
using test::RanksOutput;
using test::RanksRun;
using test::run_options;
using test::RunnerModel;

constexpr std::uint64_t kMiB = 1 << 20;

/// A model with what one pipeline alone makes of it.
struct Model {
  explicit Model(const std::vector<ModelLayer>& layers)
      : model(layers, test::kept_tensors()), alone(model.run(run_options(2, 64 * kMiB))) {}
  RunnerModel model;
  Ran alone;
};

/// Layers of every kind, some of several tiles.
const Model& every_kind() {
  static const Model model([] {
    std::vector<ModelLayer> layers = test::small_layers();
    const std::vector<ModelLayer> large = test::large_layers();
    layers.insert(layers.begin() + 4, large.begin(), large.end());
    return layers;
  }());
  return model;
}

/// Fewer weights: an early stop and a range over three and two tiles, rtn, one small layer.
const Model& few_layers() {
  using enum CodeWidth;
  static const Model model({
      {"s.stops", 3072, 4096, DType::kBF16, {.width = k2, .beta = 4}},
      {"s.range", 1100, 4096, DType::kF16, {.width = k8, .channel_wise = false}},
      {"s.rtn", 1100, 4096, DType::kBF16, {.width = k1, .solver = SolverKind::kRtn}},
      {"s.small", 64, 128, DType::kF32, {.width = k4, .round_zero = true}},
  });
  return model;
}

void expect_same(const RanksOutcome& job, const Model& model) {
  ASSERT_FALSE(job.error) << job.error->what();
  EXPECT_TRUE(job.file == model.alone.file);
  EXPECT_EQ(job.result.checksums, model.alone.result.checksums);
  for (std::size_t i = 0; i < model.alone.result.tensors.size(); ++i) {
    SCOPED_TRACE(model.model.layout().quantized()[i].module);
    const TensorResult& ours = job.result.tensors[i];
    const TensorResult& theirs = model.alone.result.tensors[i];
    EXPECT_EQ(ours.steps, theirs.steps);
    EXPECT_EQ(ours.stopped_early, theirs.stopped_early);
    EXPECT_EQ(ours.zeroed, theirs.zeroed);
    EXPECT_TRUE(ours.error.abs == theirs.error.abs);
    EXPECT_TRUE(ours.error.square == theirs.error.square);
    EXPECT_TRUE(ours.error.weight2 == theirs.error.weight2);
    EXPECT_EQ(ours.error.max_abs, theirs.error.max_abs);
  }
  EXPECT_EQ(job.source_bytes_done, model.model.plan().source_bytes);
  EXPECT_EQ(job.tensors_done, model.alone.tensors_done);
  for (const auto& follower : job.followers) EXPECT_FALSE(follower) << follower->what();
}

// ---- the same output from any number of ranks

TEST(JobRanks, AnyNumberOfThemMakeTheBytesOfOne) {
  const Model& model = every_kind();
  ASSERT_TRUE(std::any_of(model.alone.result.tensors.begin(), model.alone.result.tensors.end(),
                          [](const TensorResult& tensor) { return tensor.stopped_early; }));
  const RanksOutput output(model.model);
  std::set<std::size_t> divided;
  int turn = 0;
  for (const int ranks : {1, 2, 3, 4, 8}) {
    for (const Schedule schedule : {Schedule::kDynamic, Schedule::kStatic}) {
      const int threads = 1 + turn % 2;
      const std::uint64_t memory = turn / 2 % 2 == 0 ? minimum_memory(model.model.plan()) : 64 * kMiB;
      ++turn;
      SCOPED_TRACE(fmt::format("{} ranks, {} threads, {} bytes", ranks, threads, memory));

      const RanksOutcome job =
          output.run({.ranks = ranks, .options = run_options(threads, memory), .schedule = schedule});

      expect_same(job, model);
      EXPECT_EQ(job.facts.size(), static_cast<std::size_t>(ranks));
      EXPECT_EQ(job.weights_done, model.model.plan().weights);
      divided.insert(job.divided.begin(), job.divided.end());
    }
  }
  EXPECT_GE(divided.size(), 3U);
}

TEST(JobRanks, TensorsDividedBetweenThemStopAtTheSameStep) {
  const Model& model = few_layers();
  const RanksOutput output(model.model);
  for (const int threads : {1, 2}) {
    for (const std::uint64_t memory : {minimum_memory(model.model.plan()), 64 * kMiB}) {
      for (const int ranks : {2, 5}) {
        for (const Schedule schedule : {Schedule::kDynamic, Schedule::kStatic}) {
          const RanksOutcome job =
              output.run({.ranks = ranks, .options = run_options(threads, memory), .schedule = schedule});

          expect_same(job, model);
          // Handed out at run time, all tiles of a tensor may go to the rank that is first.
          EXPECT_TRUE(schedule == Schedule::kDynamic || !job.divided.empty());
        }
      }
    }
  }
  EXPECT_TRUE(model.alone.result.tensors[0].stopped_early);
}

TEST(JobRanks, ColumnsOfDividedTensorsAreAddedUpAndKeptForTheNextRun) {
  static const Model model({
      {"w.long", 2400, 5120, DType::kBF16, {.width = CodeWidth::k4, .solver = SolverKind::kAls}},
      {"w.short", 1100, 4096, DType::kBF16, {.width = CodeWidth::k3, .solver = SolverKind::kAls}},
  });
  std::size_t divided = 0;
  for (const int ranks : {2, 5}) {
    const RanksOutput whole(model.model);
    for (const Schedule schedule : {Schedule::kDynamic, Schedule::kStatic}) {
      const RanksOutcome job = whole.run({.ranks = ranks, .options = run_options(2, 64 * kMiB), .schedule = schedule});
      expect_same(job, model);
      divided += job.divided.size();
    }
  }
  EXPECT_GT(divided, 0U);

  std::size_t kept = 0;
  for (int at = 12; at < 48 && kept == 0; at += 4) {  // time decides when the first tile is done
    const RanksOutput output(model.model);
    const RanksOutcome first = interrupted(output, {.ranks = 2, .options = run_options(1, 64 * kMiB)}, at, 0);
    expect_ended_with(first, ErrorCode::kInterrupted, {"interrupted"});
    const std::vector<ItemRecord> finished = output.finished();
    for (const ItemRecord& record : finished) {
      kept += model.model.plan().items[record.item].kind == WorkItem::Kind::kTile ? 1U : 0U;
    }
    const RanksOutcome second = output.run({.ranks = 3, .options = run_options(2, 64 * kMiB)});
    expect_same(second, model);
    EXPECT_EQ(second.resume.items, finished.size());
  }
  EXPECT_GT(kept, 0U);
}

// ---- stopping and going on

TEST(JobRanks, AStopOnAnyOfThemEndsAllAndAnotherNumberGoesOn) {
  const Model& model = few_layers();
  struct Case {
    int ranks, at, stopped, then;
  };
  std::size_t kept = 0;
  for (const Case& each : {Case{1, 150, 0, 3},
                           {2, 1, 1, 1},
                           {2, 200, 0, 4},
                           {3, 220, 2, 2},
                           {4, 170, 3, 8},
                           {8, 120, 0, 1},
                           {8, 250, 7, 3}}) {
    SCOPED_TRACE(
        fmt::format("{} ranks, rank {} stopped at block {}, then {}", each.ranks, each.stopped, each.at, each.then));
    const RanksOutput output(model.model);
    const RanksOutcome first =
        interrupted(output, {.ranks = each.ranks, .options = run_options(2, 64 * kMiB)}, each.at, each.stopped);
    expect_ended_with(first, ErrorCode::kInterrupted, {"interrupted"});
    EXPECT_EQ(output.journals().size(), static_cast<std::size_t>(each.ranks));
    const std::vector<ItemRecord> finished = output.finished();

    const RanksOutcome second = output.run({.ranks = each.then, .options = run_options(2, 64 * kMiB)});

    expect_same(second, model);
    EXPECT_EQ(second.resume.items, finished.size());
    EXPECT_EQ(second.resume.damaged, 0U);
    EXPECT_EQ(second.weights_done, output.open_weights(finished));
    EXPECT_TRUE(second.warnings.empty());
    kept += finished.size();
  }
  EXPECT_GT(kept, 0U);  // how much, time decides
}

// ---- errors of one rank

/// Every `step`-th call of one rank's file system fails in a job of three; then the job is done again.
void fail_on(int rank, std::uint64_t step, After after) {
  const Model& model = few_layers();
  const RunOptions options = run_options(1, 64 * kMiB);
  const auto count = std::make_shared<FaultPlan>();
  FaultyFileSystem counting(model.model.files(), count);
  {
    const RanksOutput output(model.model);
    expect_same(output.run({.ranks = 3, .options = options, .odd = {{rank, {.fs = &counting}}}}), model);
  }
  ASSERT_GT(count->calls(), 10U);
  for (std::uint64_t call = 1; call <= count->calls(); call += step) {
    SCOPED_TRACE(fmt::format("call {} of rank {}: {}", call, rank, count->log()[call - 1]));
    const RanksOutput output(model.model);
    const auto plan = std::make_shared<FaultPlan>(call, after);
    FaultyFileSystem faulty(model.model.files(), plan);

    const RanksOutcome failed = output.run({.ranks = 3, .options = options, .odd = {{rank, {.fs = &faulty}}}});

    // Shares differ from run to run: the call may not have been reached. A rank that cannot read the probe sends its
    // results to others, if it can still read the model.
    if (!plan->fired() || (after == After::kWorks && plan->failed_call().ends_with("/probe"))) {
      expect_same(failed, model);
      continue;
    }
    expect_ended_with(failed, ErrorCode::kIo, {"injected fault", fmt::format("rank {} on \"host-{}\"", rank, rank)});
    expect_same(output.run({.ranks = 2, .options = options}), model);
  }
}

TEST(JobRanksFaults, AFollowersErrorEndsTheJobNamingItAndARerunCompletes) {
  fail_on(2, 6, After::kWorks);
  fail_on(1, 11, After::kDead);
}

TEST(JobRanksFaults, AnErrorOfTheLeadersDiskEndsTheJobAndARerunCompletes) {
  const Model& model = few_layers();
  const RunOptions options = run_options(1, 64 * kMiB);
  for (std::uint64_t call = 1; call < 90; call += 9) {
    const RanksOutput output(model.model);
    const auto plan = std::make_shared<FaultPlan>(call, After::kDead);
    FaultyFileSystem faulty(model.model.files(), plan);
    const RanksOutcome failed = output.run({.ranks = 3, .options = options, .odd = {{0, {.fs = &faulty}}}});
    SCOPED_TRACE(fmt::format("call {}: {}", call, plan->failed_call()));
    if (!plan->fired()) continue;

    expect_ended_with(failed, ErrorCode::kIo, {"injected fault"});
    expect_same(output.run({.ranks = 4, .options = options}), model);
  }
}

TEST(JobRanksFaults, AnErrorOfASolverNamesItsRank) {
  const Model& model = few_layers();
  const RanksOutput output(model.model);
  std::atomic<int> blocks = 0;
  const RunOptions options = run_options(2, 64 * kMiB, [&] {
    return std::make_unique<HookedSolver>([&] {
      if (++blocks == 100) throw Error(ErrorCode::kBadInput, "tensor x holds a NaN");
    });
  });

  const RanksOutcome failed = output.run({.ranks = 3, .options = options});

  expect_ended_with(failed, ErrorCode::kBadInput, {"rank ", " on \"host-", ": tensor x holds a NaN"});
}

TEST(JobRanksFaults, AProcessAloneNamesNoRank) {
  const RanksOutput output(few_layers().model);
  const auto plan = std::make_shared<FaultPlan>(40);
  FaultyFileSystem faulty(few_layers().model.files(), plan);

  const RanksOutcome failed = output.run({.options = run_options(1, 64 * kMiB), .odd = {{0, {.fs = &faulty}}}});

  expect_ended_with(failed, ErrorCode::kIo, {"injected fault"});
  EXPECT_EQ(std::string(failed.error->what()).find("rank"), std::string::npos);
}

// ---- what an earlier run left is damaged

/// Blocks that one rank solves in few_layers(): nearly all of them, to be stopped just before the end.
int blocks_alone() {
  static const int blocks = [] {
    std::atomic<int> count = 0;
    static_cast<void>(few_layers().model.run(
        run_options(1, 64 * kMiB, [&] { return std::make_unique<HookedSolver>([&] { ++count; }); })));
    return count.load();
  }();
  return blocks;
}

/// An unfinished output of few_layers() in which several items are finished.
std::unique_ptr<RanksOutput> unfinished(int ranks = 3) {
  for (int at = blocks_alone() - 1; at > 0; at -= 8) {
    auto output = std::make_unique<RanksOutput>(few_layers().model);
    const RanksOutcome job = interrupted(*output, {.ranks = ranks, .options = run_options(1, 64 * kMiB)}, at, 0);
    if (job.error && output->finished().size() > 1) return output;
  }
  throw std::runtime_error("no run was interrupted in time");
}

TEST(JobRanksDamage, AlteredBytesAreDoneAgainWithAWarning) {
  for (const int ranks : {1, 3}) {
    const auto output = unfinished();
    const std::vector<ItemRecord> finished = output->finished();
    const ItemRecord& first = finished.front();
    const ItemRecord& last = finished.back();
    test::flip_byte(output->weights(), output->offset_of(first.blocks.front()));
    test::flip_byte(output->weights(), output->offset_of(last.blocks.back()));

    const RanksOutcome job = output->run({.ranks = ranks, .options = run_options(1, 64 * kMiB)});

    expect_same(job, few_layers());
    EXPECT_EQ(job.resume.damaged, 2U);
    EXPECT_EQ(job.resume.items, finished.size() - 2);
    ASSERT_EQ(job.warnings.size(), 1U);
    EXPECT_NE(job.warnings[0].find(fmt::format("2 of {}", finished.size())), std::string::npos) << job.warnings[0];
  }
}

TEST(JobRanksDamage, AWeightFileThatIsNotThisJobsIsBegunAnewWithAWarning) {
  using Spoil = void (*)(const std::filesystem::path&);
  for (const Spoil spoil :
       {Spoil([](const std::filesystem::path& file) { std::filesystem::resize_file(file, 100'000); }),
        Spoil([](const std::filesystem::path& file) {
          std::filesystem::resize_file(file, std::filesystem::file_size(file) + 1);
        }),
        Spoil([](const std::filesystem::path& file) { std::filesystem::remove(file); }),
        Spoil([](const std::filesystem::path& file) { test::flip_byte(file, 20); })}) {
    const auto output = unfinished();
    spoil(output->weights());

    const RanksOutcome job = output->run({.ranks = 2, .options = run_options(1, 64 * kMiB)});

    expect_same(job, few_layers());
    EXPECT_EQ(job.resume.items, 0U);
    ASSERT_EQ(job.warnings.size(), 1U);
    EXPECT_NE(job.warnings[0].find("begun anew"), std::string::npos) << job.warnings[0];
  }
}

TEST(JobRanksDamage, JournalsCountAsFarAsTheyAreIntact) {
  const auto whole = [](const std::string& bytes) { return bytes; };
  const auto torn = [](const std::string& bytes) { return bytes.substr(0, bytes.size() - 3); };
  const auto flipped = [](std::string bytes) {
    bytes.at(bytes.size() / 2) = static_cast<char>(bytes.at(bytes.size() / 2) ^ 4);
    return bytes;
  };
  const auto garbage = [](const std::string& bytes) { return std::string(bytes.size() + 7, '\x5a'); };
  const auto empty = [](const std::string&) { return std::string(); };
  using Change = std::function<std::string(const std::string&)>;
  for (const Change& change : {Change(whole), Change(torn), Change(flipped), Change(garbage), Change(empty)}) {
    const auto output = unfinished(1);
    const std::size_t before = output->finished().size();
    const std::string bytes = test::get_file(output->journals()[0]);
    test::put_file(output->journals()[0], change(bytes));
    const bool same = change(bytes) == bytes;

    const RanksOutcome job = output->run({.ranks = 3, .options = run_options(1, 64 * kMiB)});

    expect_same(job, few_layers());
    EXPECT_EQ(job.resume.items == before, same) << job.resume.items << " of " << before;
  }
}

TEST(JobRanksDamage, RecordsOfItemsOutsideThePlanAndSecondRecordsAreIgnored) {
  const auto output = unfinished();
  const std::vector<ItemRecord> finished = output->finished();
  {
    JournalWriter journal(few_layers().model.files(), output->partial() / ".halfquad" / "journal-0007-0000");
    ItemRecord outside = finished[0];
    outside.item = few_layers().model.plan().items.size();
    ItemRecord elsewhere = finished[1];
    elsewhere.blocks.front().block += 1'000'000;
    for (const ItemRecord& record : {outside, elsewhere, finished[0]}) {
      WireWriter out;
      record.write(out);
      journal.append(out.take());
    }
    journal.close();
  }

  const RanksOutcome job = output->run({.ranks = 2, .options = run_options(1, 64 * kMiB)});

  expect_same(job, few_layers());
  EXPECT_EQ(job.resume.items, finished.size());
}

TEST(JobRanksDamage, AFolderWithoutALegibleDescriptionIsBegunAnew) {
  const auto output = unfinished();
  test::put_file(output->partial() / ".halfquad" / "job.json", "{\"fingerprint\": [");

  const RanksOutcome job = output->run({.ranks = 2, .options = run_options(1, 64 * kMiB)});

  expect_same(job, few_layers());
  EXPECT_EQ(job.resume.items, 0U);
}

// ---- a tensor that was settled in the first run

TEST(JobRanks, AStopOnAFollowerThatHasDoneItsShareEndsTheJobToo) {
  const RunnerModel two(
      {{"slow", 1024, 4096, DType::kBF16, {.iters = 1}}, {"fast", 1024, 4096, DType::kBF16, {.iters = 1}}},
      std::vector<test::TestTensor>{});
  const RanksOutput output(two);
  std::vector<StopFlag> stops(2);
  std::atomic<int> blocks = 0;
  const auto slow = [&] {
    return std::make_unique<HookedSolver>([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      if (++blocks == 20) stops[1].request();  // the other rank's one tile takes less than this
    });
  };

  const RanksOutcome job = output.run({.ranks = 2,
                                       .options = run_options(1, 64 * kMiB),
                                       .schedule = Schedule::kStatic,
                                       .odd = {{0, {.make_solver = slow}}},
                                       .stops = &stops});

  expect_ended_with(job, ErrorCode::kInterrupted, {"interrupted"});
  EXPECT_LT(blocks, 40);
  EXPECT_EQ(output.finished().size(), 1U);
}

TEST(JobRanks, AStopReachesARankThatOnlyWaitsForAnothersTiles) {
  const RunnerModel two_tiles({{"divided", 2048, 4096, DType::kBF16, {.iters = 1}}}, std::vector<test::TestTensor>{});
  for (const int stopped : {0, 1}) {
    const RanksOutput output(two_tiles);
    std::vector<StopFlag> stops(2);
    std::atomic<int> blocks = 0;
    const auto slow = [&] {
      return std::make_unique<HookedSolver>([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        if (++blocks == 20) stops[static_cast<std::size_t>(stopped)].request();  // the other rank is waiting by then
      });
    };

    const RanksOutcome job = output.run({.ranks = 2,
                                         .options = run_options(1, 64 * kMiB),
                                         .schedule = Schedule::kStatic,
                                         .odd = {{0, {.make_solver = slow}}},
                                         .stops = &stops});

    expect_ended_with(job, ErrorCode::kInterrupted, {"interrupted"});
  }
}

TEST(JobRanks, TilesLeftOverFollowTheDecisionOfTheFirstRun) {
  const Model& model = few_layers();
  int left_over = 0;
  const int blocks = blocks_alone();
  for (int at = blocks / 3; at < blocks && left_over < 2; at += 5) {
    const RanksOutput output(model.model);
    const RanksOutcome first =
        interrupted(output, {.ranks = 1, .options = run_options(1, minimum_memory(model.model.plan()))}, at, 0);
    if (!first.error) break;
    const std::vector<ItemRecord> finished = output.finished();
    const auto of_first = std::count_if(finished.begin(), finished.end(), [&](const ItemRecord& record) {
      const WorkItem& item = model.model.plan().items[record.item];
      return item.kind == WorkItem::Kind::kTile && model.model.layout().quantized()[item.tensor].module == "s.stops";
    });
    if (of_first == 0 || of_first == 3) continue;
    ++left_over;

    const RanksOutcome second = output.run({.ranks = 2, .options = run_options(1, 64 * kMiB)});

    expect_same(second, model);
    EXPECT_EQ(second.weights_done, output.open_weights(finished));
  }
  EXPECT_GT(left_over, 0);
}

// ---- jobs and ranks that differ

TEST(JobRanks, AnotherJobsOutputIsRefusedNamingWhatDiffersAndLeftAlone) {
  const auto output = unfinished();
  const std::string bytes = test::get_file(output->weights());
  for (std::size_t part = 0; part < output->fingerprint().size(); ++part) {
    Fingerprint other = output->fingerprint();
    other[part].second += "x";

    const RanksOutcome job = output->run({.ranks = 2, .options = run_options(1, 64 * kMiB), .fingerprint = other});

    expect_ended_with(job, ErrorCode::kUsage, {"out.partial", other[part].first, "--fresh"});
    EXPECT_TRUE(test::get_file(output->weights()) == bytes);
  }
  expect_same(output->run({.ranks = 2, .options = run_options(1, 64 * kMiB)}), few_layers());
}

TEST(JobRanks, ARankWithAnotherJobIsRefusedNamingItAndTheDifference) {
  const RanksOutput output(few_layers().model);
  Fingerprint other = output.fingerprint();
  other[1].second += "x";

  const RanksOutcome job =
      output.run({.ranks = 3, .options = run_options(1, 64 * kMiB), .odd = {{2, {.fingerprint = other}}}});

  expect_ended_with(job, ErrorCode::kUsage, {"rank 2 on \"host-2\"", other[1].first});
  EXPECT_FALSE(std::filesystem::exists(output.weights()));
}

TEST(JobRanksRefusals, AClockThatDisagreesIsNamedAndChangesNothing) {
  const Model& model = few_layers();
  const RanksOutput output(model.model);
  // Slow enough for several signs of life.
  const RunOptions options = run_options(1, 64 * kMiB, [] {
    return std::make_unique<HookedSolver>([] { std::this_thread::sleep_for(std::chrono::milliseconds(1)); });
  });

  const RanksOutcome job = output.run({.ranks = 3,
                                       .options = options,
                                       .odd = {{2, {.clock_ahead = std::chrono::seconds(-70)}}},
                                       .limits = {.life_sign = std::chrono::milliseconds(2)}});

  expect_same(job, model);
  ASSERT_EQ(job.warnings.size(), 1U);
  EXPECT_NE(job.warnings[0].find("clock of rank 2 on \"host-2\" is 70.0 s behind"), std::string::npos);
}

// ---- ranks that are gone

constexpr JobLimits kShort{.silence = std::chrono::milliseconds(1000),
                           .life_sign = std::chrono::milliseconds(10),
                           .wind_up = std::chrono::milliseconds(200)};

TEST(JobRanksGone, AFollowerThatNeverSpeaksEndsTheJob) {
  const RanksOutput output(few_layers().model);

  const RanksOutcome job =
      output.run({.ranks = 3, .options = run_options(1, 64 * kMiB), .odd = {{2, {.mute = true}}}, .limits = kShort});

  ASSERT_TRUE(job.error);
  test::expect_error(ErrorCode::kInterrupted, {"rank 2", "silent for 1 s"}, [&] { throw *job.error; });
  ASSERT_TRUE(job.followers[0]);
  EXPECT_EQ(job.followers[0]->code(), ErrorCode::kInterrupted);
  EXPECT_TRUE(job.unanswered);
}

TEST(JobRanksGone, AFollowerUnpluggedInTheMiddleEndsTheJobAndARerunCompletes) {
  for (const int after : {1, 2, 4, 6}) {
    const RanksOutput output(few_layers().model);

    const RanksOutcome job = output.run(
        {.ranks = 3, .options = run_options(1, 64 * kMiB), .odd = {{1, {.unplugged_after = after}}}, .limits = kShort});

    ASSERT_TRUE(job.error);
    test::expect_error(ErrorCode::kInterrupted, {"rank 1 on \"host-1\"", "silent"}, [&] { throw *job.error; });
    test::expect_error(ErrorCode::kIo, {"rank 0", "silent"}, [&] { throw job.followers[0].value(); });
    EXPECT_EQ(job.followers[1].value().code(), ErrorCode::kInterrupted);
    EXPECT_TRUE(job.unanswered);
    EXPECT_LT(job.seconds, 5);
    expect_same(output.run({.ranks = 2, .options = run_options(1, 64 * kMiB)}), few_layers());
  }
}

}  // namespace
}  // namespace halfquad
