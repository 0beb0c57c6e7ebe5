#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "runtime/communicator.h"
#include "runtime/progress.h"
#include "runtime/stop_flag.h"
#include "sharding/decision_board.h"
#include "sharding/ledger.h"
#include "sharding/outbox.h"
#include "sharding/rank_job.h"
#include "sharding/work_queue.h"

namespace halfquad {

/// What a job found of an earlier run's work.
struct ResumeFacts {
  std::size_t items = 0;    ///< Finished, checked and kept.
  std::size_t damaged = 0;  ///< Journaled, but the file holds other bytes: done again.
  std::uint64_t source_bytes = 0;
};

/// One rank as the report shows it.
struct RankFacts {
  std::string host;
  std::uint64_t bytes_read = 0, bytes_written = 0, weights = 0;
  PipelineStats stats;
};

/// Rank 0: hands out work, settles tensors, keeps the ledger, and does a share of the work itself. A process started
/// alone is a leader without followers. Used from one thread.
class JobLeader {
 public:
  using Warn = std::function<void(const std::string&)>;

  JobLeader(Communicator& communicator, std::string host, const StopFlag& stop, Warn warn, JobLimits limits = {});
  /// Ends the job for the others too; with an internal error when neither fail() nor succeed() was called.
  ~JobLeader();
  JobLeader(const JobLeader&) = delete;
  JobLeader& operator=(const JobLeader&) = delete;

  /// Does the job, continuing what is in job.partial when `resumed`. Throws the first error of any rank, naming that
  /// rank, after all of them have wound up or JobLimits::wind_up has passed.
  [[nodiscard]] RunResult run(const RankJob& job, bool resumed, ProgressCounters& progress);

  [[nodiscard]] const ResumeFacts& resume_facts() const noexcept { return resume_; }
  [[nodiscard]] const std::vector<RankFacts>& ranks() const noexcept { return facts_; }
  /// Bytes of the finished weight file.
  [[nodiscard]] std::uint64_t file_bytes() const noexcept { return file_bytes_; }

  /// The output is complete: lets the others go.
  void succeed();
  /// The job ends with `error`: lets the others go. Returns whether a rank is left that does not answer, so that only
  /// Communicator::abort() ends the job.
  [[nodiscard]] bool fail(const Error& error);

 private:
  class OwnShare;
  struct Peer {
    bool greeted = false, checked = false, ended = false, lost = false;
    std::chrono::steady_clock::time_point heard;
    std::uint64_t bytes_read = 0, bytes_written = 0, weights = 0, source_bytes = 0;
  };

  void greet(const RankJob& job);
  [[nodiscard]] SafetensorsWriter open_output(const RankJob& job, bool resumed, std::vector<ItemRecord>& records);
  [[nodiscard]] SafetensorsWriter create_output(const RankJob& job);
  void check_records(const RankJob& job, SafetensorsWriter& writer, std::vector<ItemRecord> records);
  [[nodiscard]] std::vector<std::optional<TensorDecision>> hand_over_decisions(const RankJob& job,
                                                                               std::span<const ItemRecord> records);
  void run_pipelines(const RankJob& job, SafetensorsWriter& writer,
                     std::span<const std::optional<TensorDecision>> settled, ProgressCounters& progress);

  [[nodiscard]] std::optional<ItemRange> next_items(int rank);
  [[nodiscard]] std::optional<TensorDecision> add_passes(int rank, const FirstPasses& passes);
  void add_record(const ItemRecord& record);
  void handle(const Message& message);
  void took_ended(int rank, const Message& message);
  bool pump();
  void wait_until(const std::function<bool()>& done);
  template <class Work>
  std::invoke_result_t<Work&> meanwhile(Work work);
  void check_silence();
  void note_failure(int rank, const Error& error);
  void wind_up();
  [[nodiscard]] bool all_ended() const;
  void say_bye(const std::optional<Error>& error);
  void show_progress(const ProgressCounters& own, ProgressCounters& shown);
  [[nodiscard]] std::string name_of_rank(int rank) const;

  Communicator& communicator_;
  const StopFlag& stop_;
  Warn warn_;
  const JobLimits limits_;
  Outbox outbox_;
  std::vector<Peer> peers_;  // [0] is this rank
  std::vector<RankFacts> facts_;
  std::vector<std::uint64_t> damaged_;
  ResumeFacts resume_;
  std::optional<Error> first_error_;
  Fingerprint fingerprint_;
  Trace* trace_ = nullptr;
  OwnShare* own_share_ = nullptr;  // while this rank's pipeline runs
  bool running_ = false, over_ = false;
  StopFlag checks_stop_;  // of what meanwhile() does: requested when the job ends early
  std::chrono::steady_clock::time_point next_sign_;
  std::uint64_t file_bytes_ = 0;
  int run_number_ = 0;

  std::mutex mutex_;  // guards what follows: this rank's pipeline uses it too
  std::unique_ptr<WorkQueue> queue_;
  std::unique_ptr<DecisionBoard> board_;
  std::unique_ptr<Ledger> ledger_;
  std::vector<std::vector<int>> contributors_;  // by tensor: ranks that wait for its decision
};

}  // namespace halfquad
