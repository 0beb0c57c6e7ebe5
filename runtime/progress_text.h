#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/progress.h"

namespace halfquad {

/// Seconds to go, from the rate of the whole run blended with that of the last ten seconds: the first alone is slow to
/// notice a change, the second alone jumps with every large tile.
class EtaEstimator {
 public:
  explicit EtaEstimator(std::uint64_t total) : total_(total) {}

  /// `done` of the total at `seconds`. Rates count from the first sample, so work done before it costs no time.
  void add(double seconds, std::uint64_t done);

  /// Nothing while too little was done to tell, and when nothing is left to do.
  [[nodiscard]] std::optional<double> remaining_seconds() const;

 private:
  struct Sample {
    double seconds = 0;
    std::uint64_t done = 0;
  };
  static double rate_between(const Sample& from, const Sample& to);

  std::uint64_t total_;
  std::optional<Sample> first_;
  std::deque<Sample> recent_;  // oldest first, the last of them the newest
};

/// progress_line() with an ETA of the caller's.
[[nodiscard]] std::string progress_text(const ProgressCounters& done, const ProgressTotals& totals, double seconds,
                                        int bar_columns, std::optional<double> eta_seconds);

/// `label` and progress_text() with as long a bar as `columns` leave room for, never wider than `columns`.
[[nodiscard]] std::string fitted_progress_text(std::string_view label, const ProgressCounters& done,
                                               const ProgressTotals& totals, double seconds, int columns,
                                               std::optional<double> eta_seconds);

}  // namespace halfquad
