#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "runtime/communicator.h"
#include "runtime/stop_flag.h"
#include "sharding/outbox.h"
#include "sharding/rank_job.h"

namespace halfquad {

/// A rank other than 0: does what rank 0 hands out until the job is over. Used from one thread.
class JobFollower {
 public:
  /// `host`: for messages that name this rank.
  JobFollower(Communicator& communicator, std::string host, const StopFlag& stop);

  /// Does this rank's share. Nothing: the job is complete; otherwise the error it ended with, which rank 0 reports.
  [[nodiscard]] std::optional<Error> run(const RankJob& job);
  /// Tells rank 0 of an error met before run() and returns what the job ended with.
  [[nodiscard]] std::optional<Error> fail(const Error& error);

 private:
  void work(const RankJob& job);
  void run_pipeline(const RankJob& job, SafetensorsWriter& writer, int run,
                    std::span<const std::optional<TensorDecision>> settled);
  [[nodiscard]] Message wait_for(Tag tag);
  [[nodiscard]] std::optional<Message> next_message();
  void flush();
  [[nodiscard]] std::optional<Error> wait_for_bye();
  void take_bye(const Message& message);

  Communicator& communicator_;
  const std::string host_;
  const StopFlag& stop_;
  Outbox outbox_;
  bool over_ = false;
  std::optional<Error> end_;
  std::chrono::steady_clock::time_point heard_;
};

}  // namespace halfquad
