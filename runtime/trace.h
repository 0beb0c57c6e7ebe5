#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace halfquad {

/// This machine's wall clock: microseconds since the Unix epoch.
[[nodiscard]] std::int64_t unix_microseconds();

/// A time line of what every lane (thread) of every rank did, for chrome://tracing, Perfetto and the like. Thread-safe.
class Trace {
 public:
  using Clock = std::chrono::steady_clock;

  struct Event {
    int rank = 0;
    std::string lane;           ///< "reader 0", "worker 1", ...
    std::string name;           ///< "solve model.layers.0.mlp.up_proj tile 3"
    std::int64_t start_us = 0;  ///< Since the Unix epoch, by the rank's own clock.
    std::int64_t duration_us = 0;
  };

  explicit Trace(int rank);

  void add(const std::string& lane, std::string name, Clock::time_point start, Clock::time_point end);
  /// Events of another rank.
  void add(std::vector<Event> events);
  [[nodiscard]] std::vector<Event> take();

  /// All events as Chrome trace JSON, one process a rank, one thread a lane. Times begin at the first event.
  [[nodiscard]] std::string json() const;

 private:
  const int rank_;
  const std::int64_t epoch_us_;  // Unix time when the steady clock was at start_
  const Clock::time_point start_;
  mutable std::mutex mutex_;
  std::vector<Event> events_;
};

}  // namespace halfquad
