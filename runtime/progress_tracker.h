#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "runtime/eta.h"
#include "runtime/progress.h"
#include "runtime/rank_board.h"

namespace halfquad {

/// All there is to say about a job's progress at one moment.
struct ProgressSnapshot {
  std::uint64_t bytes_read = 0, bytes_written = 0;
  std::uint64_t weights_done = 0;
  std::uint64_t source_bytes_done = 0;
  std::uint64_t source_bytes_before = 0;  ///< Of these, what an earlier run did.
  std::uint64_t tensors_done = 0;
  ProgressTotals totals;
  double seconds = 0;  ///< Since the work began.
  std::optional<double> eta_seconds;
  std::vector<RankProgress> ranks;  ///< Of a job that has ranks.

  /// 0 to 1. A job without source bytes (all tensors empty) is measured by its tensors.
  [[nodiscard]] double fraction() const noexcept;
};

/// Takes snapshots of counters that workers add to. Used from one thread at a time; counters and board must outlive it.
class ProgressTracker {
 public:
  ProgressTracker(const ProgressCounters& counters, const ProgressTotals& totals, const RankBoard* ranks = nullptr);

  [[nodiscard]] ProgressSnapshot sample();
  /// The same for a clock of the caller's: seconds since the work began, never going back.
  [[nodiscard]] ProgressSnapshot sample_at(double seconds);

 private:
  void begin_at(double seconds);
  [[nodiscard]] std::optional<double> remaining_seconds() const;

  const ProgressCounters& counters_;
  const ProgressTotals totals_;
  const RankBoard* ranks_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::uint64_t before_ = 0;
  EtaEstimator by_bytes_, by_weights_;
};

}  // namespace halfquad
