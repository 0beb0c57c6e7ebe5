#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <CLI/App.hpp>

#include "io/file_system.h"
#include "launcher/context.h"
#include "runtime/error.h"
#include "runtime/progress.h"

namespace halfquad {

/// --status and --metrics, as typed; empty for none.
struct MonitorOptions {
  std::string status;
  std::string metrics;
};
void add_monitor_options(CLI::App& app, MonitorOptions& options);

/// What a monitor says the job is.
struct MonitoredJob {
  std::string command;                 ///< "quantize", ...
  std::vector<std::string> arguments;  ///< The command line, program name first.
  std::string output;
};

/// Keeps the files of --status and --metrics at what a job does, from a thread of its own: each is written beside its
/// place and renamed, every interval, at every change of the phase and at the end. A file that cannot be written is
/// warned of once and tried again; the job never fails for it. Without files it does nothing.
class JobMonitor {
 public:
  using Warn = std::function<void(const std::string&)>;

  JobMonitor(FileSystem& fs, MonitorOptions options, std::chrono::milliseconds interval, MonitoredJob job, Warn warn);
  ~JobMonitor();  ///< Without an end() before it, the job failed for a reason unknown.
  JobMonitor(const JobMonitor&) = delete;
  JobMonitor& operator=(const JobMonitor&) = delete;

  /// While it lives, the job is in `phase` and counts what it does in `counters`. One at a time.
  class Stage {
   public:
    Stage(JobMonitor& monitor, std::string phase, const ProgressCounters& counters, const ProgressTotals& totals,
          const RankBoard* ranks = nullptr);
    ~Stage();
    Stage(const Stage&) = delete;
    Stage& operator=(const Stage&) = delete;

   private:
    JobMonitor& monitor_;
  };
  /// Of a part of the job without progress of its own.
  void phase(std::string phase);
  void count_warning() noexcept;

  /// The job's last word; `error` is empty when it succeeded. Idempotent.
  void end(int exit_code, const std::string& error = {}) noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;  // null without files
};

/// Runs `work` and tells the monitor how it ended.
void monitored(JobMonitor& monitor, const std::function<void()>& work);

}  // namespace halfquad
