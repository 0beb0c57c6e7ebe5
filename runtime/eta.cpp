#include "runtime/eta.h"

#include <algorithm>

namespace halfquad {
namespace {

constexpr double kRecentSeconds = 10;
constexpr double kRecentPart = 0.25;  // of a long run

}  // namespace

double EtaEstimator::rate_between(const Sample& from, const Sample& to) {
  if (to.seconds <= from.seconds || to.done <= from.done) return 0;
  return static_cast<double>(to.done - from.done) / (to.seconds - from.seconds);
}

void EtaEstimator::add(double seconds, std::uint64_t done) {
  const Sample sample{seconds, done};
  if (!first_ || done <= first_->done) {
    first_ = sample;
    recent_.clear();
  }
  recent_.push_back(sample);
  const double window = std::max(kRecentSeconds, kRecentPart * (seconds - first_->seconds));
  while (recent_.size() > 2 && recent_[1].seconds <= seconds - window) recent_.pop_front();
}

std::optional<double> EtaEstimator::remaining_seconds() const {
  // Start-up counts as work at first: wait for a hundredth of the work or, in a long job, for a quarter minute.
  constexpr double kSoonest = 2;
  constexpr double kLatest = 15;
  constexpr double kEnoughDone = 0.01;
  if (!first_ || recent_.back().done >= total_) return std::nullopt;
  const Sample& now = recent_.back();
  const double elapsed = now.seconds - first_->seconds;
  const double done = static_cast<double>(now.done - std::min(first_->done, now.done));
  const bool enough = done >= kEnoughDone * static_cast<double>(total_ - std::min(first_->done, total_));
  if (done == 0 || elapsed < kSoonest || (!enough && elapsed < kLatest)) return std::nullopt;
  const double rate = (rate_between(*first_, now) + rate_between(recent_.front(), now)) / 2;
  return static_cast<double>(total_ - now.done) / rate;
}

}  // namespace halfquad
