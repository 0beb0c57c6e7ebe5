#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace halfquad {

/// What one rank of a job has done so far.
struct RankProgress {
  int rank = 0;
  std::string host = {};
  std::uint64_t bytes_read = 0, bytes_written = 0;
  std::uint64_t weights_done = 0;
  std::uint64_t source_bytes_done = 0;  ///< Source bytes whose output is written; what an earlier run did not included.
  double silent_seconds = 0;            ///< Since rank 0 last heard of it.
  bool ended = false;                   ///< Its work is over.
};

/// Where the leader of a job writes what its ranks have done, for those who show it. Thread-safe.
class RankBoard {
 public:
  void set(std::vector<RankProgress> ranks) {
    const std::lock_guard lock(mutex_);
    ranks_ = std::move(ranks);
  }
  [[nodiscard]] std::vector<RankProgress> get() const {
    const std::lock_guard lock(mutex_);
    return ranks_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<RankProgress> ranks_;
};

/// The rank at work that has done the least.
struct SlowestRank {
  int rank = 0;
  std::string host = {};
  double of_median = 1;  ///< What it has done as a part of what the rank in the middle has.
};
/// Nothing with fewer than two ranks, before half of them have done something, and when all have ended.
[[nodiscard]] std::optional<SlowestRank> slowest_rank(std::span<const RankProgress> ranks);

}  // namespace halfquad
