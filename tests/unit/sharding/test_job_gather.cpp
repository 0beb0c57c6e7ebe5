#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "io/output_directory.h"
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
constexpr JobLimits kQuick{.probe = std::chrono::milliseconds(50)};

/// A model with what one pipeline alone makes of it.
struct Model {
  explicit Model(std::uint64_t max_shard_bytes)
      : model(layers(), kept(), DType::kF16, max_shard_bytes), alone(model.run(run_options(2, 64 * kMiB))) {}

  /// A tensor of two tiles that stops early, one whose range is taken over two tiles, and small ones.
  static std::vector<ModelLayer> layers() {
    using enum CodeWidth;
    return {
        {"a.stops", 2048, 4096, DType::kBF16, {.width = k2, .beta = 4}},
        {"b.rtn", 96, 128, DType::kF32, {.width = k4, .solver = SolverKind::kRtn}},
        {"b.three", 47, 192, DType::kF16, {.width = k3}},
        {"b.columns", 64, 96, DType::kF16, {.width = k2, .axis = 0, .iters = 3}},
        {"c.range", 1100, 4096, DType::kF16, {.width = k8, .channel_wise = false}},
        {"d.one", 64, 128, DType::kBF16, {.width = k1, .group_size = 8}},
    };
  }
  static std::vector<test::TestTensor> kept() {
    return {test::random_tensor("b.three.bias", DType::kF16, {47}),
            test::random_tensor("kept.blocks", DType::kU8, {5, 1 << 20}),
            test::random_tensor("kept.norm", DType::kBF16, {129})};
  }

  RunnerModel model;
  Ran alone;
};

const Model& one_file() {
  static const Model kModel(OutputLayout::kOneFile);
  return kModel;
}

const Model& shards() {
  static const Model kModel(3'000'000);
  return kModel;
}

void expect_same(const RanksOutcome& job, const Model& model) {
  ASSERT_FALSE(job.error) << job.error->what();
  EXPECT_TRUE(job.file == model.alone.file);
  EXPECT_EQ(job.result.checksums, model.alone.result.checksums);
  ASSERT_EQ(job.result.tensors.size(), model.alone.result.tensors.size());
  for (std::size_t i = 0; i < job.result.tensors.size(); ++i) {
    const TensorResult& ours = job.result.tensors[i];
    const TensorResult& theirs = model.alone.result.tensors[i];
    EXPECT_EQ(ours.steps, theirs.steps);
    EXPECT_EQ(ours.stopped_early, theirs.stopped_early);
    EXPECT_TRUE(ours.error.abs == theirs.error.abs && ours.error.square == theirs.error.square);
    EXPECT_EQ(ours.error.max_abs, theirs.error.max_abs);
  }
  EXPECT_EQ(job.source_bytes_done, model.model.plan().source_bytes);
  EXPECT_EQ(job.tensors_done, model.alone.tensors_done);
  EXPECT_EQ(job.resume.damaged, 0U);
  EXPECT_TRUE(job.warnings.empty());
  for (const auto& follower : job.followers) EXPECT_FALSE(follower) << follower->what();
}

std::map<int, OddRank> blind_ranks(const std::set<int>& ranks) {
  std::map<int, OddRank> odd;
  for (const int rank : ranks) odd[rank].blind = true;
  return odd;
}

std::uint64_t bytes_received(const RanksOutcome& job) {
  std::uint64_t bytes = 0;
  for (const RankFacts& rank : job.facts) bytes += rank.stats.bytes_received;
  return bytes;
}

// ---- the same output however results come together

TEST(JobGather, ShardsHoldTheTensorsOfTheOneFile) {
  const OutputLayout& one = one_file().model.layout();
  const OutputLayout& many = shards().model.layout();
  ASSERT_GE(many.files().size(), 3U);
  ASSERT_TRUE(one_file().alone.result.tensors[0].stopped_early);
  std::map<std::string, std::string_view> wanted;
  for (const TensorEntry& entry : one.entries()) {
    wanted[entry.name] = RunnerModel::tensor_bytes(one_file().alone.file, entry);
  }
  std::uint64_t file_begin = 0;
  for (const OutputFile& file : many.files()) {
    const std::string_view bytes = std::string_view(shards().alone.file).substr(file_begin, file.bytes());
    for (const TensorEntry& entry : many.entries_of(file)) {
      EXPECT_TRUE(RunnerModel::tensor_bytes(bytes, entry) == wanted.at(entry.name)) << entry.name;
    }
    file_begin += file.bytes();
  }
  EXPECT_EQ(many.entries().size(), one.entries().size());
  EXPECT_EQ(file_begin, shards().alone.file.size());
}

TEST(JobGather, AnyAssemblyAnyRanksAndAnyBlindOnesMakeTheSameBytes) {
  struct Case {
    int ranks;
    std::set<int> blind;
  };
  for (const Model* model : {&one_file(), &shards()}) {
    const RanksOutput output(model->model);
    std::uint64_t received = 0;  // a single job may have nothing for a rank that begins late
    for (const Case& each : {Case{1, {}}, {2, {}}, {2, {1}}, {3, {1}}, {3, {1, 2}}, {4, {}}, {4, {1, 3}}}) {
      for (const Assembly assembly : {Assembly::kAuto, Assembly::kDirect, Assembly::kGather}) {
        if (assembly == Assembly::kDirect && !each.blind.empty()) continue;
        SCOPED_TRACE(fmt::format("{} files, {} ranks of which {} blind, assembly {}",
                                 model->model.layout().files().size(), each.ranks, each.blind.size(),
                                 static_cast<int>(assembly)));

        const RanksOutcome job = output.run({.ranks = each.ranks,
                                             .options = run_options(1, 256 * kMiB),
                                             .assembly = assembly,
                                             .odd = blind_ranks(each.blind),
                                             .limits = kQuick});

        expect_same(job, *model);
        const auto seeing = static_cast<std::size_t>(each.ranks) - each.blind.size();
        const bool gathers = each.ranks > 1 && (assembly == Assembly::kGather || !each.blind.empty());
        EXPECT_EQ(job.assembly.gathered, gathers);
        EXPECT_EQ(job.assembly.writers,
                  assembly == Assembly::kGather ? std::min(seeing, model->model.layout().files().size()) : seeing);
        EXPECT_TRUE(gathers || bytes_received(job) == 0);
        received += bytes_received(job);
      }
    }
    EXPECT_GT(received, 0U);
  }
}

TEST(JobGather, ABlindRankLeavesNothingWhereItIs) {
  const RanksOutput output(one_file().model);

  expect_same(
      output.run({.ranks = 2, .options = run_options(1, 256 * kMiB), .odd = blind_ranks({1}), .limits = kQuick}),
      one_file());

  EXPECT_FALSE(std::filesystem::exists(output.elsewhere()));
}

TEST(JobGather, WhatLiesWhereABlindRankLooksIsNotTakenForTheOutput) {
  const RanksOutput output(one_file().model);
  std::filesystem::create_directories(output.elsewhere() / kPrivateFolder);
  test::put_file(output.elsewhere() / kPrivateFolder / "probe", random_token());
  test::put_file(output.elsewhere() / "model.safetensors", "mine");

  const RanksOutcome job = output.run({.ranks = 2,
                                       .options = run_options(1, 256 * kMiB),
                                       .schedule = Schedule::kStatic,
                                       .odd = blind_ranks({1}),
                                       .limits = kQuick});

  expect_same(job, one_file());
  EXPECT_GT(bytes_received(job), 0U);
  EXPECT_EQ(test::get_file(output.elsewhere() / "model.safetensors"), "mine");
}

TEST(JobGather, DirectRefusesARankThatDoesNotSeeTheOutput) {
  const RanksOutput output(shards().model);

  const RanksOutcome job = output.run({.ranks = 3,
                                       .options = run_options(1, 256 * kMiB),
                                       .assembly = Assembly::kDirect,
                                       .odd = blind_ranks({2}),
                                       .limits = kQuick});

  expect_ended_with(job, ErrorCode::kUsage, {"rank 2 on \"host-2\"", "out.partial", "--assembly direct"});
  expect_same(output.run({.ranks = 1, .options = run_options(1, 64 * kMiB)}), shards());
}

// ---- stopping and going on

TEST(JobGather, AStopInTheMiddleAndOtherRanksAndAnotherAssemblyGoOn) {
  struct Case {
    const Model& model;
    RanksRun first;
    int at, stopped;
    RanksRun then;
  };
  const RunOptions options = run_options(2, 256 * kMiB);
  std::size_t kept = 0;
  for (const Case& each :
       {Case{one_file(),
             {.ranks = 3, .options = options, .assembly = Assembly::kGather, .limits = kQuick},
             70,
             0,
             {.ranks = 2, .options = options, .assembly = Assembly::kDirect, .limits = kQuick}},
        Case{shards(),
             {.ranks = 4, .options = options, .assembly = Assembly::kGather, .limits = kQuick},
             110,
             2,
             {.ranks = 3, .options = options, .odd = blind_ranks({1}), .limits = kQuick}},
        Case{
            shards(),
            {.ranks = 3, .options = options, .odd = blind_ranks({1, 2}), .limits = kQuick},
            90,
            1,
            {.ranks = 4, .options = options, .assembly = Assembly::kGather, .odd = blind_ranks({3}), .limits = kQuick}},
        Case{one_file(),
             {.ranks = 2, .options = options, .odd = blind_ranks({1}), .limits = kQuick},
             1,
             1,
             {.ranks = 1, .options = options, .limits = kQuick}},
        Case{shards(),
             {.ranks = 2, .options = options, .assembly = Assembly::kDirect, .limits = kQuick},
             100,
             1,
             {.ranks = 3,
             .options = options,
             .assembly = Assembly::kGather,
             .odd = blind_ranks({2}),
             .limits = kQuick}}}) {
    SCOPED_TRACE(fmt::format("{} ranks, rank {} stopped at block {}", each.first.ranks, each.stopped, each.at));
    const RanksOutput output(each.model.model);
    const RanksOutcome first = interrupted(output, each.first, each.at, each.stopped);
    expect_ended_with(first, ErrorCode::kInterrupted, {"interrupted"});
    const std::vector<ItemRecord> finished = output.finished();

    const RanksOutcome second = output.run(each.then);

    expect_same(second, each.model);
    EXPECT_EQ(second.resume.items, finished.size());
    EXPECT_EQ(second.weights_done, output.open_weights(finished));
    kept += finished.size();
  }
  EXPECT_GT(kept, 0U);  // how much, time decides
}

TEST(JobGather, OnlyRanksThatWriteHaveAJournal) {
  const RanksOutput output(one_file().model);
  const RanksOutcome first = interrupted(
      output, {.ranks = 3, .options = run_options(1, 256 * kMiB), .odd = blind_ranks({1}), .limits = kQuick}, 100, 0);

  expect_ended_with(first, ErrorCode::kInterrupted, {"interrupted"});
  std::vector<std::string> names;
  for (const std::filesystem::path& journal : output.journals()) names.push_back(journal.filename().string());
  EXPECT_EQ(names, (std::vector<std::string>{"journal-0000-0000", "journal-0000-0002"}));
}

TEST(JobGather, AnotherMaxShardSizeIsAnotherJob) {
  const RanksOutput output(one_file().model);
  const RanksOutcome first = interrupted(output, {.ranks = 1, .options = run_options(1, 64 * kMiB)}, 60, 0);
  ASSERT_TRUE(first.error);
  const RunnerModel& other = shards().model;

  const RanksOutcome job =
      output.run({.ranks = 2,
                  .options = run_options(1, 64 * kMiB),
                  .fingerprint = fingerprint_of(other.checkpoint(), other.layout(), "error", "1.0")});

  expect_ended_with(job, ErrorCode::kUsage, {"differs in --max-shard-size;"});
}

// ---- ranks that fail or are gone

TEST(JobGather, ABlindRankUnpluggedInTheMiddleEndsTheJobAndARerunCompletes) {
  constexpr JobLimits kShort{.silence = std::chrono::milliseconds(1000),
                             .life_sign = std::chrono::milliseconds(10),
                             .probe = std::chrono::milliseconds(50),
                             .wind_up = std::chrono::milliseconds(200)};
  int unplugged = 0;
  for (const int after : {1, 3, 6, 9, 13}) {
    SCOPED_TRACE(after);
    const RanksOutput output(shards().model);
    std::map<int, OddRank> odd = blind_ranks({1});
    odd[1].unplugged_after = after;

    const RanksOutcome job =
        output.run({.ranks = 3, .options = run_options(1, 256 * kMiB), .odd = odd, .limits = kShort});

    if (!job.error) continue;  // so few items were its share that it heard too little
    ++unplugged;
    test::expect_error(ErrorCode::kInterrupted, {"rank 1 on \"host-1\"", "silent"}, [&] { throw *job.error; });
    EXPECT_TRUE(job.unanswered);
    EXPECT_LT(job.seconds, 5);
    expect_same(
        output.run(
            {.ranks = 2, .options = run_options(1, 256 * kMiB), .assembly = Assembly::kGather, .limits = kQuick}),
        shards());
  }
}

/// Every `step`-th call of the file system of rank `writer`, to which blind ranks send, fails for good.
void fail_writer(int writer, const std::set<int>& blind, std::uint64_t step) {
  const Model& model = shards();
  const RanksRun whole{.ranks = 3,
                       .options = run_options(1, 256 * kMiB),
                       .assembly = Assembly::kGather,
                       .odd = blind_ranks(blind),
                       .limits = kQuick};
  const auto run_with = [&](FileSystem& fs, const RanksOutput& output) {
    RanksRun how = whole;
    how.odd[writer].fs = &fs;
    return output.run(how);
  };
  const auto count = std::make_shared<FaultPlan>();
  {
    FaultyFileSystem counting(model.model.files(), count);
    const RanksOutput output(model.model);
    expect_same(run_with(counting, output), model);
  }
  int failed = 0;
  for (std::uint64_t call = 1; call <= count->calls(); call += step) {
    SCOPED_TRACE(fmt::format("call {} of rank {}: {}", call, writer, count->log()[call - 1]));
    const RanksOutput output(model.model);
    const auto plan = std::make_shared<FaultPlan>(call, After::kDead);
    FaultyFileSystem faulty(model.model.files(), plan);

    const RanksOutcome job = run_with(faulty, output);

    if (!plan->fired()) {  // shares differ from run to run
      expect_same(job, model);
      continue;
    }
    ++failed;
    expect_ended_with(job, ErrorCode::kIo, {"injected fault"});
    if (job.error && std::filesystem::exists(output.partial() / kPrivateFolder / "probe")) {
      test::expect_error(ErrorCode::kIo, {fmt::format("rank {} on \"host-{}\"", writer, writer)},
                         [&] { throw *job.error; });
    }
    expect_same(output.run(whole), model);
  }
  EXPECT_GT(failed, 5);
}

TEST(JobGather, AWritersErrorEndsTheJobNamingItAndARerunCompletes) {
  fail_writer(0, {1, 2}, 17);
  fail_writer(1, {2}, 9);
}

// ---- memory

TEST(JobGather, BuffersAndWhatIsOnItsWayStayWithinEveryRanksBudget) {
  // Tiles that wait for the range of them all take whatever memory a pipeline has.
  const RunnerModel model({{"range", 8192, 4096, DType::kBF16, {.width = CodeWidth::k8, .channel_wise = false}}},
                          std::vector<test::TestTensor>{});
  const Plan& plan = model.plan();
  ASSERT_EQ(plan.items.size(), 8U);
  // The least: a pipeline's own, four sending threads, and room to receive one result.
  const std::uint64_t budget = minimum_memory(plan) + 5 * plan.items[0].output_bytes;
  const std::vector<AssemblyRole> roles = assembly_roles(Assembly::kAuto, {true, false}, 1);
  const RanksOutput output(model);

  const RanksOutcome job = output.run({.ranks = 2,
                                       .options = run_options(1, budget),
                                       .schedule = Schedule::kStatic,
                                       .odd = blind_ranks({1}),
                                       .limits = kQuick});

  ASSERT_FALSE(job.error) << job.error->what();
  EXPECT_GT(bytes_received(job), 0U);
  for (std::size_t rank = 0; rank < 2; ++rank) {
    const AssemblyMemory memory = assembly_memory(roles[rank], static_cast<int>(rank), plan, 4, budget);
    const std::uint64_t peak = job.facts[rank].stats.peak_buffer_bytes;
    EXPECT_GE(memory.send + memory.receive, plan.items[0].output_bytes);
    EXPECT_LE(peak + memory.send + memory.receive, budget) << "rank " << rank;
    EXPECT_GT(peak, (budget - memory.send - memory.receive) / 2) << "rank " << rank;
  }
}

TEST(JobGather, TheLeastBudgetIsEnoughForRanksThatSendAndReceive) {
  const Model& model = shards();
  std::uint64_t largest = 0;
  for (const WorkItem& item : model.model.plan().items) largest = std::max(largest, item.output_bytes);
  const std::uint64_t budget = minimum_memory(model.model.plan()) + 5 * largest;
  for (const Assembly assembly : {Assembly::kAuto, Assembly::kGather}) {
    const RanksOutput output(model.model);

    expect_same(output.run({.ranks = 4,
                            .options = run_options(1, budget),
                            .assembly = assembly,
                            .odd = blind_ranks({1, 3}),
                            .limits = kQuick}),
                model);
  }
}

TEST(JobGather, ABudgetThatIsTooSmallForItIsRefusedNamingTheRankAndTheLeast) {
  const Model& model = one_file();
  const std::uint64_t least = minimum_memory(model.model.plan());
  for (const int poor : {0, 1}) {
    const RanksOutput output(model.model);
    std::map<int, OddRank> odd = blind_ranks({1});
    odd[poor].memory_bytes = least;
    const RanksRun how{.ranks = 2, .options = run_options(1, 256 * kMiB), .odd = odd, .limits = kQuick};

    const RanksOutcome job = output.run(how);

    expect_ended_with(job, ErrorCode::kOutOfMemory, {fmt::format("rank {} on", poor), "gathering", "pass --memory "});
    ASSERT_TRUE(job.error);
    // What it asks for is enough.
    const std::string message = job.error->what();
    const std::string_view before = "pass --memory ";
    RanksRun richer = how;
    richer.odd[poor].memory_bytes = std::stoull(message.substr(message.find(before) + before.size())) * kMiB;
    EXPECT_GT(richer.odd[poor].memory_bytes, least);
    expect_same(output.run(richer), model);
  }
  // Without gathering it is enough.
  const RanksOutput output(model.model);
  expect_same(output.run({.ranks = 2, .options = run_options(1, least)}), model);
}

}  // namespace
}  // namespace halfquad
