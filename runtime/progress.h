#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace halfquad {

/// What a pipeline has done so far. Workers add to it; one meter reads it. Thread-safe.
struct ProgressCounters {
  std::atomic<std::uint64_t> bytes_read{0};
  std::atomic<std::uint64_t> bytes_written{0};
  std::atomic<std::uint64_t> weights_done{0};       ///< Weights solved (each once, redone tiles are not counted again).
  std::atomic<std::uint64_t> source_bytes_done{0};  ///< Source bytes whose output is written; drives the bar.
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
  kNone,
};

/// "auto", "plain", "none" ("bar" too); throws kUsage for another name.
[[nodiscard]] ProgressMode progress_mode_from_name(std::string_view name);

/// One progress line's text: percent, GB/s, Mw/s, tensors, ETA. Pure, so that tests can read it.
[[nodiscard]] std::string progress_line(const ProgressCounters& done, const ProgressTotals& totals, double seconds,
                                        int bar_columns);

/// Prints progress to standard error from its own thread until finish() or destruction. Never throws after
/// construction.
class ProgressMeter {
 public:
  ProgressMeter(const ProgressCounters& counters, const ProgressTotals& totals, ProgressMode mode, std::string label);
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
