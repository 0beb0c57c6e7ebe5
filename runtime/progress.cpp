#include "runtime/progress.h"

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "runtime/error.h"
#include "runtime/progress_text.h"
#include "runtime/progress_tracker.h"
#include "runtime/terminal.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::chrono::milliseconds kBarInterval{200};

// In one call, so that the lines of a log cannot come in between.
void print(const std::string& text) noexcept { std::fwrite(text.data(), 1, text.size(), stderr); }

ProgressOptions resolve(ProgressOptions options) {
  if (options.mode == ProgressMode::kAuto && stderr_is_terminal()) options.mode = ProgressMode::kBar;
  if (options.mode == ProgressMode::kAuto) options.mode = ProgressMode::kPlain;
  if (options.mode == ProgressMode::kBar && options.format == LogFormat::kJson) options.mode = ProgressMode::kPlain;
  return options;
}

}  // namespace

ProgressMode progress_mode_from_name(std::string_view name) {
  if (name == "auto") return ProgressMode::kAuto;
  if (name == "bar") return ProgressMode::kBar;
  if (name == "plain") return ProgressMode::kPlain;
  if (name == "ranks") return ProgressMode::kRanks;
  if (name == "none") return ProgressMode::kNone;
  throw Error(ErrorCode::kUsage, "unknown progress mode " + quoted(name) + "; choose auto, bar, plain, ranks or none");
}

struct ProgressMeter::Impl {
  Impl(const ProgressCounters& counters, const ProgressTotals& totals, const ProgressOptions& wanted, std::string name,
       const RankBoard* ranks)
      : options(resolve(wanted)), label(std::move(name)), tracker(counters, totals, ranks) {}

  void run() noexcept {
    const auto interval = options.mode == ProgressMode::kBar ? kBarInterval : options.interval;
    std::unique_lock lock(mutex);
    while (!finishing.wait_for(lock, interval, [&] { return finished; })) show();
  }

  void show() noexcept {
    try {
      const ProgressSnapshot now = tracker.sample();
      const bool with_ranks = options.mode == ProgressMode::kRanks;
      if (options.mode == ProgressMode::kBar) {
        // One column less than there are: some terminals wrap after the last.
        print(kClearLine + fitted_progress_text(label, now, terminal_columns() - 1));
      } else if (options.format == LogFormat::kJson) {
        print(progress_json(label, now, with_ranks) + "\n");
      } else {
        const std::string prefix = label.empty() ? std::string() : label + " ";
        print(prefix + progress_text(now, 0) + "\n" + (with_ranks ? ranks_text(now) : std::string()));
      }
    } catch (...) {
      // Out of memory for a line of text: the job matters more than its display.
    }
  }

  const ProgressOptions options;
  const std::string label;
  ProgressTracker tracker;
  std::mutex mutex;
  std::condition_variable finishing;
  bool finished = false;
  std::thread thread;
};

ProgressMeter::ProgressMeter(const ProgressCounters& counters, const ProgressTotals& totals,
                             const ProgressOptions& options, std::string label, const RankBoard* ranks)
    : impl_(std::make_unique<Impl>(counters, totals, options, one_line(label), ranks)) {
  if (impl_->options.mode == ProgressMode::kNone) return;
  try {
    impl_->thread = std::thread([impl = impl_.get()] { impl->run(); });
  } catch (const std::system_error& error) {
    throw Error(ErrorCode::kOutOfMemory, std::string("the system refused a thread for the progress display (") +
                                             error.what() + "); use --progress none");
  }
}

ProgressMeter::~ProgressMeter() { finish(); }

void ProgressMeter::finish() noexcept {
  if (!impl_->thread.joinable()) return;
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->finished = true;
    impl_->finishing.notify_all();
  }
  impl_->thread.join();
  if (impl_->options.mode == ProgressMode::kBar) {
    print(kClearLine);
  } else {
    impl_->show();
  }
}

}  // namespace halfquad
