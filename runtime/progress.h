#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/log_format.h"

namespace halfquad {

class RankBoard;

/// What a pipeline has done so far. Workers add to it; meters read it. Thread-safe.
struct ProgressCounters {
  std::atomic<std::uint64_t> bytes_read{0};
  std::atomic<std::uint64_t> bytes_written{0};
  std::atomic<std::uint64_t> weights_done{0};       ///< Weights solved (each once, redone tiles are not counted again).
  std::atomic<std::uint64_t> source_bytes_done{0};  ///< Source bytes whose output is written; drives the bar.
  std::atomic<std::uint64_t> source_bytes_before{0};  ///< Of these, what an earlier run did.
  std::atomic<std::uint64_t> tensors_done{0};
};

struct ProgressTotals {
  std::uint64_t source_bytes = 0;
  std::uint64_t weights = 0;
  std::uint64_t tensors = 0;
};

enum class ProgressMode {
  kAuto,   ///< A bar when standard error is a terminal, lines otherwise.
  kBar,    ///< One line redrawn in place.
  kPlain,  ///< A line every few seconds, for log files.
  kRanks,  ///< The same with a line for each rank.
  kNone,
};

/// "auto", "bar", "plain", "ranks", "none"; throws kUsage for another name.
[[nodiscard]] ProgressMode progress_mode_from_name(std::string_view name);

struct ProgressOptions {
  ProgressMode mode = ProgressMode::kAuto;
  LogFormat format = LogFormat::kText;       ///< kJson: lines are JSON objects, and there is no bar.
  std::chrono::milliseconds interval{5000};  ///< Between lines.
};

/// Prints progress to standard error from its own thread until finish() or destruction. Never throws after
/// construction. `ranks`, when there are some, must outlive it as the counters must.
class ProgressMeter {
 public:
  ProgressMeter(const ProgressCounters& counters, const ProgressTotals& totals, const ProgressOptions& options,
                std::string label, const RankBoard* ranks = nullptr);
  ~ProgressMeter();
  ProgressMeter(const ProgressMeter&) = delete;
  ProgressMeter& operator=(const ProgressMeter&) = delete;

  /// Clears the bar, so that the next output starts on a clean line. Idempotent.
  void finish() noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace halfquad
