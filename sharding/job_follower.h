#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "runtime/communicator.h"
#include "runtime/progress.h"
#include "runtime/stop_flag.h"
#include "sharding/local_run.h"
#include "sharding/outbox.h"
#include "sharding/rank_job.h"
#include "sharding/weight_files.h"

namespace halfquad {

/// A rank other than 0: does what rank 0 hands out until the job is over. Used from one thread.
class JobFollower {
 public:
  /// `host`: for messages that name this rank.
  JobFollower(Communicator& communicator, std::string host, const StopFlag& stop, JobLimits limits = {});

  /// Before run(): this rank's part in JobLeader::find_nonfinite(), and what all found. Throws the error that ends it,
  /// which belongs to fail().
  [[nodiscard]] std::vector<std::size_t> find_nonfinite(const RankScan& scan);
  /// Does this rank's share. Nothing: the job is complete; otherwise the error it ended with, which rank 0 reports.
  /// Throws kIo when rank 0 is gone and so nobody will.
  [[nodiscard]] std::optional<Error> run(const RankJob& job);
  /// Tells rank 0 of an error met before run() and returns what the job ended with; throws as run() does.
  [[nodiscard]] std::optional<Error> fail(const Error& error);

 private:
  void greet(const Fingerprint& fingerprint);
  void work(const RankJob& job);
  [[nodiscard]] bool look_for_output(const RankJob& job, const std::string& token);
  [[nodiscard]] std::unique_ptr<WeightFiles> attach_and_check(const RankJob& job, std::span<const ItemRecord> records);
  template <class Work>
  std::invoke_result_t<Work&, const StopFlag&> meanwhile(Work work);
  void run_pipeline(const RankJob& job, const LocalRun::Place& place);
  void post_trace(const RankJob& job);
  [[nodiscard]] Message wait_for(Tag tag);
  [[nodiscard]] std::optional<Message> next_message();
  void flush();
  void post_progress();
  void post_ended(const RankOutcome& outcome);
  [[nodiscard]] std::optional<Error> wait_for_bye();
  void take_bye(const Message& message);

  Communicator& communicator_;
  const std::string host_;
  const StopFlag& stop_;
  const JobLimits limits_;
  Outbox outbox_;
  std::deque<Message> early_;  // from ranks that began before this one
  bool over_ = false;
  std::optional<Error> end_;
  std::chrono::steady_clock::time_point heard_, next_sign_;
  ProgressCounters progress_;
};

}  // namespace halfquad
