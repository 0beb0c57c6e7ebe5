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
#include "runtime/terminal.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kBarInterval{200};
constexpr std::chrono::milliseconds kPlainInterval{5000};

// In one call, so that the lines of a log cannot come in between.
void print(const std::string& text) noexcept { std::fwrite(text.data(), 1, text.size(), stderr); }

ProgressMode resolve(ProgressMode mode) {
  if (mode != ProgressMode::kAuto) return mode;
  return stderr_is_terminal() ? ProgressMode::kBar : ProgressMode::kPlain;
}

}  // namespace

ProgressMode progress_mode_from_name(std::string_view name) {
  if (name == "auto") return ProgressMode::kAuto;
  if (name == "bar") return ProgressMode::kBar;
  if (name == "plain") return ProgressMode::kPlain;
  if (name == "none") return ProgressMode::kNone;
  throw Error(ErrorCode::kUsage, "unknown progress mode " + quoted(name) + "; choose auto, bar, plain or none");
}

std::string progress_line(const ProgressCounters& done, const ProgressTotals& totals, double seconds, int bar_columns) {
  EtaEstimator eta(totals.source_bytes);
  eta.add(0, 0);
  eta.add(seconds, done.source_bytes_done);
  return progress_text(done, totals, seconds, bar_columns, eta.remaining_seconds());
}

struct ProgressMeter::Impl {
  Impl(const ProgressCounters& done, const ProgressTotals& all, ProgressMode wanted, std::string name)
      : counters(done), totals(all), mode(resolve(wanted)), label(std::move(name)), eta(all.source_bytes) {
    eta.add(0, counters.source_bytes_done);
  }

  void run() noexcept {
    const auto interval = mode == ProgressMode::kBar ? kBarInterval : kPlainInterval;
    std::unique_lock lock(mutex);
    while (!finishing.wait_for(lock, interval, [&] { return finished; })) show();
  }

  void show() noexcept {
    try {
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      eta.add(seconds, counters.source_bytes_done);
      if (mode == ProgressMode::kBar) {
        // One column less than there are: some terminals wrap after the last.
        print(kClearLine +
              fitted_progress_text(label, counters, totals, seconds, terminal_columns() - 1, eta.remaining_seconds()));
      } else {
        const std::string prefix = label.empty() ? std::string() : label + " ";
        print(prefix + progress_text(counters, totals, seconds, 0, eta.remaining_seconds()) + "\n");
      }
    } catch (...) {
      // Out of memory for a line of text: the job matters more than its display.
    }
  }

  const ProgressCounters& counters;
  const ProgressTotals totals;
  const ProgressMode mode;
  const std::string label;
  const Clock::time_point start = Clock::now();
  EtaEstimator eta;
  std::mutex mutex;
  std::condition_variable finishing;
  bool finished = false;
  std::thread thread;
};

ProgressMeter::ProgressMeter(const ProgressCounters& counters, const ProgressTotals& totals, ProgressMode mode,
                             std::string label)
    : impl_(std::make_unique<Impl>(counters, totals, mode, one_line(label))) {
  if (impl_->mode == ProgressMode::kNone) return;
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
  if (impl_->mode == ProgressMode::kBar) {
    print(kClearLine);
  } else {
    impl_->show();
  }
}

}  // namespace halfquad
