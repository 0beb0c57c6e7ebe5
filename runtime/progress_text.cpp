#include "runtime/progress_text.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr double kRecentSeconds = 10;

// 0 to 1. A job without source bytes (all tensors empty) is measured by its tensors.
double fraction_done(const ProgressCounters& done, const ProgressTotals& totals) {
  const auto ratio = [](std::uint64_t part, std::uint64_t whole) {
    return std::min(1.0, static_cast<double>(part) / static_cast<double>(whole));
  };
  if (totals.source_bytes > 0) return ratio(done.source_bytes_done, totals.source_bytes);
  if (totals.tensors > 0) return ratio(done.tensors_done, totals.tensors);
  return 1;
}

std::string bar_of(double fraction, int columns) {
  const int filled = static_cast<int>(fraction * columns);
  std::string bar = " |";
  for (int i = 0; i < columns; ++i) bar += i < filled ? "\u2588" : " ";
  return bar + "|";
}

double per_second(std::uint64_t amount, double seconds, double unit) {
  return seconds > 0 ? static_cast<double>(amount) / seconds / unit : 0;
}

// Continuation bytes of UTF-8 take no column of their own.
int columns_of(std::string_view text) {
  return static_cast<int>(std::count_if(text.begin(), text.end(), [](char c) { return (c & '\xC0') != '\x80'; }));
}

std::string first_columns(std::string text, int columns) {
  std::size_t end = 0;
  while (end < text.size() && columns_of(std::string_view(text).substr(0, end + 1)) <= columns) ++end;
  text.resize(end);
  return text;
}

}  // namespace

double EtaEstimator::rate_between(const Sample& from, const Sample& to) {
  if (to.seconds <= from.seconds || to.done <= from.done) return 0;
  return static_cast<double>(to.done - from.done) / (to.seconds - from.seconds);
}

void EtaEstimator::add(double seconds, std::uint64_t done) {
  const Sample sample{seconds, done};
  if (!first_) first_ = sample;
  recent_.push_back(sample);
  while (recent_.size() > 2 && recent_[1].seconds <= seconds - kRecentSeconds) recent_.pop_front();
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

std::string progress_text(const ProgressCounters& done, const ProgressTotals& totals, double seconds, int bar_columns,
                          std::optional<double> eta_seconds) {
  const double fraction = fraction_done(done, totals);
  // Rounded down: 100.0 % means done.
  std::string text = fmt::format("{:5.1f} %", std::floor(fraction * 1000) / 10);
  if (bar_columns > 0) text += bar_of(fraction, bar_columns);
  // The busier direction: quantizing reads more than it writes, dequantizing writes more than it reads.
  const std::uint64_t moved = std::max(done.bytes_read.load(), done.bytes_written.load());
  text += fmt::format("{}{:.2f} GB/s", bar_columns > 0 ? " " : "  ", per_second(moved, seconds, 1e9));
  if (totals.weights > 0) text += fmt::format("  {:.0f} Mw/s", per_second(done.weights_done, seconds, 1e6));
  if (totals.tensors > 0) text += fmt::format("  tensors {}/{}", done.tensors_done.load(), totals.tensors);
  if (fraction < 1) {
    if (eta_seconds) text += "  ETA " + human_duration(*eta_seconds);
  } else {
    text += "  in " + human_duration(seconds);
  }
  return text;
}

std::string fitted_progress_text(std::string_view label, const ProgressCounters& done, const ProgressTotals& totals,
                                 double seconds, int columns, std::optional<double> eta_seconds) {
  constexpr int kShortestBar = 6;
  constexpr int kLongestBar = 40;
  constexpr int kBarFrame = 2;  // "| |" for the two blanks without a bar
  const std::string prefix = label.empty() ? std::string() : std::string(label) + " ";
  const std::string bare = prefix + progress_text(done, totals, seconds, 0, eta_seconds);
  const int bar = std::min(columns - columns_of(bare) - kBarFrame, kLongestBar);
  if (bar < kShortestBar) return first_columns(bare, columns);
  // The numbers may have grown since they were measured.
  return first_columns(prefix + progress_text(done, totals, seconds, bar, eta_seconds), columns);
}

}  // namespace halfquad
