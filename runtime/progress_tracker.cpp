#include "runtime/progress_tracker.h"

#include <algorithm>

namespace halfquad {

double ProgressSnapshot::fraction() const noexcept {
  const auto ratio = [](std::uint64_t part, std::uint64_t whole) {
    return std::min(1.0, static_cast<double>(part) / static_cast<double>(whole));
  };
  if (totals.source_bytes > 0) return ratio(source_bytes_done, totals.source_bytes);
  if (totals.tensors > 0) return ratio(tensors_done, totals.tensors);
  return 1;
}

ProgressTracker::ProgressTracker(const ProgressCounters& counters, const ProgressTotals& totals, const RankBoard* ranks)
    : counters_(counters), totals_(totals), ranks_(ranks), by_bytes_(0), by_weights_(0) {
  begin_at(0);
}

// An earlier run's work took no time of this one. How many of the weights it solved is not counted: as many as of the
// bytes.
void ProgressTracker::begin_at(double seconds) {
  const std::uint64_t total = totals_.source_bytes;
  const double left =
      total == 0 ? 1 : static_cast<double>(total - std::min(before_, total)) / static_cast<double>(total);
  by_bytes_ = EtaEstimator(total);
  by_bytes_.add(seconds, before_);
  by_weights_ = EtaEstimator(static_cast<std::uint64_t>(left * static_cast<double>(totals_.weights)));
  by_weights_.add(seconds, 0);
}

// Solving a weight takes much longer than copying its bytes, and what is copied may all come first: as long as there is
// something to solve, that alone tells the time.
std::optional<double> ProgressTracker::remaining_seconds() const {
  return by_weights_.left() > 0 ? by_weights_.remaining_seconds() : by_bytes_.remaining_seconds();
}

ProgressSnapshot ProgressTracker::sample() {
  return sample_at(std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count());
}

ProgressSnapshot ProgressTracker::sample_at(double seconds) {
  ProgressSnapshot now;
  now.source_bytes_before = counters_.source_bytes_before;
  now.source_bytes_done = counters_.source_bytes_done;
  now.bytes_read = counters_.bytes_read;
  now.bytes_written = counters_.bytes_written;
  now.weights_done = counters_.weights_done;
  now.tensors_done = counters_.tensors_done;
  now.totals = totals_;
  now.seconds = seconds;
  if (now.source_bytes_before != before_) {  // an earlier run's work shows only once it was checked
    before_ = now.source_bytes_before;
    begin_at(seconds);
  }
  by_bytes_.add(seconds, now.source_bytes_done);
  by_weights_.add(seconds, now.weights_done);
  if (now.fraction() < 1) now.eta_seconds = remaining_seconds();
  if (ranks_ != nullptr) now.ranks = ranks_->get();
  return now;
}

}  // namespace halfquad
