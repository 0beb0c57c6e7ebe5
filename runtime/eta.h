#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>

namespace halfquad {

/// Seconds to go, from the rate of the whole run blended with that of its latest part, a quarter of the run but at
/// least ten seconds: the first alone is slow to notice a change, the second alone jumps with every large tile.
class EtaEstimator {
 public:
  explicit EtaEstimator(std::uint64_t total) : total_(total) {}

  /// `done` of the total at `seconds`. Rates count from the last sample before anything was done, so work done before
  /// the first costs no time, and starting up does not look like slow work.
  void add(double seconds, std::uint64_t done);

  /// What is not done yet, at the last sample.
  [[nodiscard]] std::uint64_t left() const noexcept {
    return recent_.empty() ? total_ : total_ - std::min(recent_.back().done, total_);
  }
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

}  // namespace halfquad
