#pragma once

#include <atomic>
#include <optional>
#include <span>
#include <thread>

#include "runtime/progress.h"
#include "runtime/stop_flag.h"
#include "sharding/rank_job.h"
#include "sharding/work_share.h"

namespace halfquad {

/// One rank's pipeline and its journal, on a thread of their own, so that the rank's main thread is free for messages.
class LocalRun {
 public:
  /// `share`: told of items once they are durable. All arguments must outlive this object.
  LocalRun(const RankJob& job, SafetensorsWriter& writer, const std::filesystem::path& journal,
           std::span<const std::optional<TensorDecision>> settled, WorkShare& share, ProgressCounters& progress);
  ~LocalRun();  ///< Stops it and waits.
  LocalRun(const LocalRun&) = delete;
  LocalRun& operator=(const LocalRun&) = delete;

  /// Lets tiles in flight go; what is written is still made durable. The share must not block from now on.
  void stop() noexcept { stop_.request(); }
  [[nodiscard]] bool ended() const noexcept { return ended_.load(std::memory_order_acquire); }
  /// @pre ended().
  [[nodiscard]] const RankOutcome& outcome() const noexcept { return outcome_; }

 private:
  void work(const std::filesystem::path& journal);
  void run_pipeline(const std::filesystem::path& journal, std::optional<Error>& journal_error);

  const RankJob& job_;
  SafetensorsWriter& writer_;
  const std::span<const std::optional<TensorDecision>> settled_;
  WorkShare& share_;
  ProgressCounters& progress_;
  StopFlag stop_;
  RankOutcome outcome_;
  std::atomic<bool> ended_{false};
  std::thread thread_;  // last: it uses all of the above
};

/// Any exception as an Error: what is not one counts as internal, std::bad_alloc as out of memory.
[[nodiscard]] Error as_error(std::exception_ptr error) noexcept;

}  // namespace halfquad
