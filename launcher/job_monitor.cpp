#include "launcher/job_monitor.h"

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "io/json.h"
#include "launcher/exit_code.h"
#include "launcher/job_status.h"
#include "runtime/machine.h"
#include "runtime/text.h"
#include "runtime/trace.h"

namespace halfquad {
namespace {

std::string absolute(const std::string& path) {
  std::error_code failed;
  const std::filesystem::path full = std::filesystem::absolute(path, failed);
  return failed ? path : full.lexically_normal().string();
}

/// One of the monitor's files.
struct Watched {
  std::string path;
  std::string_view option;
  bool failed = false;
};

/// Not synced: a heartbeat that a crash loses was of no use any more.
void replace_file(FileSystem& fs, const std::filesystem::path& path, const std::string& text) {
  const std::filesystem::path beside = path.string() + ".tmp";  // no name that a collector of *.prom or *.json takes
  const std::unique_ptr<WriteFile> file = fs.create(beside, WriteMode::kBuffered);
  file->write(0, std::as_bytes(std::span(text)));
  file->close();
  fs.rename(beside, path);
}

}  // namespace

void add_monitor_options(CLI::App& app, MonitorOptions& options) {
  app.add_option("--status", options.status, "Keep FILE, a JSON object, at what the job does and how it ended")
      ->type_name("FILE")
      ->group("Messages");
  app.add_option("--metrics", options.metrics,
                 "The same for Prometheus: FILE.prom in the directory of node_exporter's textfile collector")
      ->type_name("FILE")
      ->group("Messages");
}

struct JobMonitor::Impl {
  Impl(FileSystem& files, std::chrono::milliseconds between, Warn warning)
      : fs(files), interval(between), warn(std::move(warning)) {}

  void run() noexcept {
    std::unique_lock lock(mutex);
    while (!changed.wait_for(lock, interval, [&] { return finished; })) write();
  }

  // With the mutex held: a phase that ends waits until its counters are no longer looked at.
  void write() noexcept {
    try {
      if (tracker) now.progress = tracker->sample();
      now.updated_us = unix_microseconds();
      now.warnings = warnings;
      write(status, [&] { return pretty_json(status_json(now)); });
      write(metrics, [&] { return status_metrics(now); });
    } catch (...) {
      // Out of memory for a page of text: the job matters more than its display.
    }
  }

  template <class Text>
  void write(Watched& file, Text text) {
    if (file.path.empty()) return;
    try {
      replace_file(fs, file.path, text());
    } catch (const Error& error) {
      if (std::exchange(file.failed, true)) return;
      warn(fmt::format("{} {} cannot be written, and the job goes on without it: {}", file.option, quoted(file.path),
                       error.what()));
    }
  }

  void finish() noexcept {
    {
      const std::lock_guard lock(mutex);
      finished = true;
      changed.notify_all();
    }
    if (thread.joinable()) thread.join();
  }

  FileSystem& fs;
  const std::chrono::milliseconds interval;
  const Warn warn;
  Watched status{{}, "--status"}, metrics{{}, "--metrics"};
  std::atomic<std::uint64_t> warnings{0};
  std::mutex mutex;  // guards what follows, and the writing
  std::condition_variable changed;
  bool finished = false;
  JobStatus now;
  std::optional<ProgressTracker> tracker;
  std::thread thread;
};

JobMonitor::JobMonitor(FileSystem& fs, MonitorOptions options, std::chrono::milliseconds interval, MonitoredJob job,
                       Warn warn) {
  if (options.status.empty() && options.metrics.empty()) return;
  impl_ = std::make_unique<Impl>(fs, interval, std::move(warn));
  impl_->status.path = std::move(options.status);
  impl_->metrics.path = std::move(options.metrics);
  impl_->now.command = std::move(job.command);
  impl_->now.arguments = std::move(job.arguments);
  impl_->now.output = absolute(job.output);
  impl_->now.host = host_name();
  impl_->now.pid = ::getpid();
  impl_->now.started_us = unix_microseconds();
  phase("preparing");
  try {
    impl_->thread = std::thread([impl = impl_.get()] { impl->run(); });
  } catch (const std::system_error&) {
    // The files still change with every phase.
  }
}

JobMonitor::~JobMonitor() {
  if (!impl_ || impl_->now.end) return;
  impl_->finish();
  impl_->now.end = JobStatus::End{std::nullopt, "ended by an unexpected exception"};
  impl_->write();
}

JobMonitor::Stage::Stage(JobMonitor& monitor, std::string phase, const ProgressCounters& counters,
                         const ProgressTotals& totals, const RankBoard* ranks)
    : monitor_(monitor) {
  Impl* impl = monitor.impl_.get();
  if (impl == nullptr) return;
  const std::lock_guard lock(impl->mutex);
  impl->tracker.emplace(counters, totals, ranks);
  impl->now.phase = std::move(phase);
  impl->write();
}

JobMonitor::Stage::~Stage() {
  if (!monitor_.impl_) return;
  const std::lock_guard lock(monitor_.impl_->mutex);
  if (monitor_.impl_->tracker) monitor_.impl_->now.progress = monitor_.impl_->tracker->sample();
  monitor_.impl_->tracker.reset();
}

void JobMonitor::phase(std::string phase) {
  if (!impl_) return;
  const std::lock_guard lock(impl_->mutex);
  impl_->now.phase = std::move(phase);
  impl_->write();
}

void JobMonitor::count_warning() noexcept {
  if (impl_) ++impl_->warnings;
}

void JobMonitor::end(int exit_code, const std::string& error) noexcept {
  if (!impl_ || impl_->now.end) return;
  impl_->finish();
  try {
    impl_->now.end = JobStatus::End{exit_code, error};
  } catch (const std::bad_alloc&) {
    impl_->now.end = JobStatus::End{exit_code, {}};
  }
  impl_->write();
}

void monitored(JobMonitor& monitor, const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    monitor.end(exit_code(error.code()), error.what());
    throw;
  }
  monitor.end(kExitDone);
}

}  // namespace halfquad
