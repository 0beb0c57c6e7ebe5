#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>

#include "io/journal.h"
#include "runtime/progress.h"
#include "runtime/stop_flag.h"
#include "sharding/item_receiver.h"
#include "sharding/item_sender.h"
#include "sharding/job_tags.h"
#include "sharding/rank_job.h"
#include "sharding/record_keeper.h"
#include "sharding/weight_files.h"
#include "sharding/work_share.h"

namespace halfquad {

/// One rank's work: its pipeline, on a thread of its own so that the rank's main thread is free for messages, and what
/// writes its results, and those of others, or sends them to the ranks that do.
class LocalRun {
 public:
  /// What belongs to one rank of the job.
  struct Place {
    int rank = 0;
    int run = 0;  ///< Number of this run of the job: journals are named after it.
    AssemblyRole role;
    WeightFiles* files = nullptr;  ///< Open when role.writes(rank).
    std::span<const std::optional<TensorDecision>> settled;
  };
  /// `share`: told of items once they are durable, by the rank that made them so. All arguments must outlive this
  /// object.
  LocalRun(const RankJob& job, const Place& place, WorkShare& share, Outbox& outbox, ProgressCounters& progress);
  ~LocalRun();  ///< Stops it and waits.
  LocalRun(const LocalRun&) = delete;
  LocalRun& operator=(const LocalRun&) = delete;

  /// Takes `message` when it is one between senders and receivers; false when it is not.
  [[nodiscard]] bool take(Message& message);

  /// Lets tiles in flight go; what is written is still made durable. The share must not block from now on.
  void stop() noexcept;
  /// Its pipeline has done all its work, and only others may still have something for it: it waits for close().
  [[nodiscard]] bool idle() const noexcept { return idle_.load(std::memory_order_acquire); }
  /// Nobody sends to this rank any more.
  void close() noexcept;
  [[nodiscard]] bool ended() const noexcept { return ended_.load(std::memory_order_acquire); }
  /// @pre ended().
  [[nodiscard]] const RankOutcome& outcome() const noexcept { return outcome_; }

 private:
  class Share;
  class Sink;

  [[nodiscard]] bool took_answer(Tag tag, const Message& message);
  void take_offer(Tag tag, Message& message);
  void open_store();
  void work();
  void run_pipeline();
  void wait_for_close();
  void close_store();
  [[nodiscard]] std::optional<Error> store_error();
  void store_failed(std::exception_ptr error);
  [[nodiscard]] AssemblyMemory memory() const;
  [[nodiscard]] std::uint64_t taken() const;
  [[nodiscard]] std::uint64_t combining() const;
  [[nodiscard]] RunOptions pipeline_options() const;
  [[nodiscard]] int writer_of(std::size_t entry) const {
    return place_.role.writers[job_.layout.contents()[entry].file];
  }

  const RankJob& job_;
  const Place place_;
  WorkShare& share_;
  Outbox& outbox_;
  ProgressCounters& progress_;
  StopFlag stop_;
  ItemSender sender_;
  std::unique_ptr<JournalWriter> journal_;
  std::unique_ptr<RecordKeeper> keeper_;
  std::unique_ptr<ItemReceiver> receiver_;
  RankOutcome outcome_;
  std::mutex mutex_;  // guards closed_ and store_error_
  std::condition_variable changed_;
  bool closed_ = false;
  std::optional<Error> store_error_;
  std::atomic<bool> idle_{false}, ended_{false};
  std::thread thread_;  // last: it uses all of the above
};

/// Any exception as an Error: what is not one counts as internal, std::bad_alloc as out of memory.
[[nodiscard]] Error as_error(std::exception_ptr error) noexcept;

}  // namespace halfquad
