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
#include "runtime/rank_board.h"
#include "runtime/stop_flag.h"
#include "sharding/decision_board.h"
#include "sharding/ledger.h"
#include "sharding/local_run.h"
#include "sharding/outbox.h"
#include "sharding/rank_job.h"
#include "sharding/weight_files.h"
#include "sharding/work_queue.h"

namespace halfquad {

/// What a job found of an earlier run's work.
struct ResumeFacts {
  std::size_t items = 0;    ///< Finished, checked and kept.
  std::size_t damaged = 0;  ///< Journaled, but the file holds other bytes: done again.
  std::uint64_t source_bytes = 0;
};

/// How the results came together.
struct AssemblyFacts {
  bool gathered = false;    ///< Some rank sent its results to another.
  std::size_t writers = 1;  ///< Ranks that wrote weight files.
};

/// One rank as the report shows it.
struct RankFacts {
  std::string host;
  std::vector<std::string> devices;  ///< Names of those it used.
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

  /// Before run(): finds the tensors that hold a NaN or an infinity, ascending; every rank reads its part of them.
  /// Throws as run() does. `shown`: of all ranks.
  [[nodiscard]] std::vector<std::size_t> find_nonfinite(const RankScan& scan, ProgressCounters& shown);
  /// Does the job, continuing what is in job.partial when `resumed`. Throws the first error of any rank, naming that
  /// rank, after all of them have wound up or JobLimits::wind_up has passed.
  [[nodiscard]] RunResult run(const RankJob& job, bool resumed, ProgressCounters& progress);

  /// Before run(): keeps `board`, which must outlive this object, at what every rank has done.
  void show_ranks_on(RankBoard& board) noexcept { board_of_ranks_ = &board; }
  /// Source bytes whose output a rerun will find finished, of run()'s job.
  [[nodiscard]] std::uint64_t saved_source_bytes() const;

  [[nodiscard]] const ResumeFacts& resume_facts() const noexcept { return resume_; }
  [[nodiscard]] const std::vector<RankFacts>& ranks() const noexcept { return facts_; }
  /// Ranks that wrote, and whether any sent its results to another.
  [[nodiscard]] const AssemblyFacts& assembly() const noexcept { return assembly_; }

  /// The output is complete: lets the others go.
  void succeed();
  /// The job ends with `error`: lets the others go. Returns whether a rank is left that does not answer, so that only
  /// Communicator::abort() ends the job.
  [[nodiscard]] bool fail(const Error& error);

 private:
  class OwnShare;
  struct Peer {
    bool greeted = false, scanned = false, looked = false, checked = false, idle = false, ended = false, lost = false;
    bool sees = false;                // the output's file system
    std::vector<SeenDevice> devices;  // that it sees
    std::chrono::steady_clock::time_point heard;
    std::int64_t clock_ahead_us = 0;  // of its wall clock, before rank 0's
    int clocks_seen = 0;
    std::uint64_t bytes_read = 0, bytes_written = 0, weights = 0, source_bytes = 0;
  };

  static constexpr int kSelf = 0;
  static constexpr int kNobody = -1;  // whose failure says itself whom it is about

  // Before the work (job_leader_setup.cpp).
  [[nodiscard]] std::vector<std::size_t> find_own_nonfinite(const RankScan& scan, const std::function<void()>& show,
                                                            ProgressCounters& own);
  [[nodiscard]] std::unique_ptr<WeightFiles> set_up(const RankJob& job, bool resumed, std::vector<ItemRecord>& records);
  void greet(const Fingerprint& fingerprint);
  [[nodiscard]] std::unique_ptr<WeightFiles> open_output(const RankJob& job, bool resumed,
                                                         std::vector<ItemRecord>& records);
  [[nodiscard]] std::unique_ptr<WeightFiles> create_output(const RankJob& job);
  void assign_roles(const RankJob& job);
  void share_devices(const RankJob& job);
  void check_records(const RankJob& job, std::vector<ItemRecord> records);
  static void share_importance(const RankJob& job, std::vector<ItemRecord>& records);
  [[nodiscard]] std::vector<std::optional<TensorDecision>> hand_over_decisions(const RankJob& job,
                                                                               std::span<const ItemRecord> records);

  // The work.
  void run_pipelines(const RankJob& job, const LocalRun::Place& place, ProgressCounters& progress);
  void work_along(LocalRun& local, const ProgressCounters& own, ProgressCounters& shown);

  [[nodiscard]] std::optional<ItemRange> next_items(int rank);
  [[nodiscard]] std::vector<DecidedTensor> add_passes(int rank, FirstPasses passes);
  void send_decision(int rank, const DecidedTensor& decided);
  void add_record(const ItemRecord& record);
  void handle(Message& message);
  [[nodiscard]] bool took_answer(Tag tag, int rank, WireReader in);
  void took_hello(int rank, WireReader in);
  void took_progress(int rank, WireReader in);
  void took_ended(int rank, const Message& message);
  void took_clock(int rank, std::int64_t theirs);
  [[nodiscard]] std::vector<Trace::Event> by_own_clock(int rank, std::vector<Trace::Event> events) const;
  void answer_want(int rank);
  bool pump();
  void wait_until(const std::function<bool()>& done);
  template <class Work>
  std::invoke_result_t<Work&> meanwhile(
      Work work, const std::function<void()>& each_turn = [] {});
  void check_silence();
  void note_failure(int rank, const Error& error);
  void wind_up();
  [[nodiscard]] bool all_ended() const;
  [[nodiscard]] bool nobody_sends() const;
  void wait_for_all(bool Peer::*arrived);
  void say_bye(const std::optional<Error>& error);
  void show_progress(const ProgressCounters& own, ProgressCounters& shown);
  void show_ranks(const ProgressCounters& own);
  void note_stop();
  [[nodiscard]] std::string name_of_rank(int rank) const;

  Communicator& communicator_;
  const StopFlag& stop_;
  Warn warn_;
  const JobLimits limits_;
  Outbox outbox_;
  std::vector<Peer> peers_;  // [0] is this rank
  std::vector<RankFacts> facts_;
  std::vector<std::size_t> nonfinite_;
  std::vector<std::uint64_t> damaged_;
  ResumeFacts resume_;
  std::optional<Error> first_error_;
  Fingerprint fingerprint_;
  Trace* trace_ = nullptr;
  OwnShare* own_share_ = nullptr;  // while this rank's pipeline runs
  LocalRun* local_ = nullptr;      // likewise
  std::vector<Message> early_;     // from ranks that began before this one
  std::vector<AssemblyRole> roles_;
  std::vector<std::vector<std::size_t>> devices_;  // by rank: of Peer::devices, those it uses
  AssemblyFacts assembly_;
  bool running_ = false, over_ = false;
  StopFlag checks_stop_;  // of what meanwhile() does: requested when the job ends early
  std::chrono::steady_clock::time_point next_sign_;
  int run_number_ = 0;
  RankBoard* board_of_ranks_ = nullptr;
  std::chrono::steady_clock::time_point next_board_;

  mutable std::mutex mutex_;  // guards what follows: this rank's pipeline uses it too
  std::unique_ptr<WorkQueue> queue_;
  std::unique_ptr<DecisionBoard> board_;
  std::unique_ptr<Ledger> ledger_;
  std::vector<std::vector<int>> contributors_;  // by tensor: ranks that wait for its decision
};

}  // namespace halfquad
