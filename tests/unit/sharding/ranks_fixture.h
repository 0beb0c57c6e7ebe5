#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/stop_flag.h"
#include "sharding/job_leader.h"
#include "sharding/rank_job.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/sharding/runner_fixture.h"

namespace halfquad::test {

/// What is to be different about one rank.
struct OddRank {
  FileSystem* fs = nullptr;
  std::optional<Fingerprint> fingerprint = {};
  std::function<std::unique_ptr<Solver>()> make_solver = {};
  std::chrono::microseconds clock_ahead{0};
  bool mute = false;  ///< It does nothing, as if its process hung before it said a word.
  /// Its messages stop after so many were received, as if its machine were unplugged; 0: never.
  int unplugged_after = 0;
  /// It is on a machine that does not see the output; what lies there instead is nothing, or an earlier job's.
  bool blind = false;
  std::uint64_t memory_bytes = 0;  ///< Its budget; 0: as the others'.
  DeviceSet* devices = nullptr;    ///< Its own.
};

/// How to run a job whose ranks are threads.
struct RanksRun {
  int ranks = 1;
  RunOptions options;
  Schedule schedule = Schedule::kDynamic;
  Assembly assembly = Assembly::kAuto;
  std::map<int, OddRank> odd = {};
  std::vector<StopFlag>* stops = nullptr;  ///< One per rank.
  JobLimits limits = {};
  std::optional<Fingerprint> fingerprint = {};  ///< Of every rank; default: RanksOutput::fingerprint().
};

/// What a job left, whether it was completed or not.
struct RanksOutcome {
  std::optional<Error> error;                   ///< Of the leader.
  std::vector<std::optional<Error>> followers;  ///< [0] is rank 1.
  bool unanswered = false;                      ///< JobLeader::fail().
  double seconds = 0;
  RunResult result;
  std::string file;  ///< The weight files of a complete job, one behind the other.
  ResumeFacts resume;
  std::vector<RankFacts> facts;
  AssemblyFacts assembly;
  std::uint64_t weights_done = 0, source_bytes_done = 0, tensors_done = 0;
  std::vector<std::string> warnings;
  std::set<std::size_t> divided;  ///< Tensors of which a follower had a part of the tiles.
};

/// A place for a model's output, where jobs are begun and continued.
class RanksOutput {
 public:
  explicit RanksOutput(const RunnerModel& model) : model_(model) {}

  /// Runs the job, continuing what is there. A complete one is read and discarded.
  [[nodiscard]] RanksOutcome run(const RanksRun& how) const;

  [[nodiscard]] Fingerprint fingerprint() const;
  [[nodiscard]] std::filesystem::path partial() const { return temp_.path() / "out.partial"; }
  /// Where blind ranks believe it to be.
  [[nodiscard]] std::filesystem::path elsewhere() const { return temp_.path() / "elsewhere" / "out.partial"; }
  /// The only weight file.
  [[nodiscard]] std::filesystem::path weights() const { return partial() / kWeights; }
  [[nodiscard]] std::vector<std::filesystem::path> journals() const;
  /// Items the journals name, each once.
  [[nodiscard]] std::vector<ItemRecord> finished() const;
  /// Where a block lies in weights().
  [[nodiscard]] std::uint64_t offset_of(const BlockSum& block) const;
  /// Weights of the tiles that `finished` lacks.
  [[nodiscard]] std::uint64_t open_weights(const std::vector<ItemRecord>& finished) const;

 private:
  static constexpr const char* kWeights = "model.safetensors";
  [[nodiscard]] RankJob job(const RanksRun& how, int rank) const;

  const RunnerModel& model_;
  TempDir temp_;
};

/// A job that ended with one error on every rank, within seconds; `parts`: of rank 0's message.
void expect_ended_with(const RanksOutcome& job, ErrorCode code, std::initializer_list<std::string_view> parts);

/// Stops the job at the `at`-th block that any rank solves, by a signal to `rank` alone.
[[nodiscard]] RanksOutcome interrupted(const RanksOutput& output, RanksRun how, int at, int rank);

/// Flips the lowest bit of one byte.
void flip_byte(const std::filesystem::path& file, std::uint64_t offset);

}  // namespace halfquad::test
