#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <boost/json/object.hpp>

#include "runtime/progress_tracker.h"

namespace halfquad {

/// All that programs which watch a job are told about it.
struct JobStatus {
  std::string command;                 ///< "quantize", ...
  std::vector<std::string> arguments;  ///< The command line, program name first.
  std::string output;                  ///< What the job makes or checks, as an absolute path.
  std::string host;
  int pid = 0;
  std::int64_t started_us = 0;  ///< Since the Unix epoch.
  std::int64_t updated_us = 0;
  std::string phase;  ///< "preparing", "quantizing", ..., "finishing".
  ProgressSnapshot progress;
  std::uint64_t warnings = 0;

  struct End {
    std::optional<int> exit_code;  ///< Nothing when an exception that is none of halfquad's ended it.
    std::string error;             ///< The line that the job ended with; empty when it succeeded.
  };
  std::optional<End> end;  ///< Nothing while it runs.

  /// "running", "done", "interrupted" (the same command continues) or "failed".
  [[nodiscard]] std::string_view state() const noexcept;
  /// 0 to 1: 0 as long as it is not known what there is to do.
  [[nodiscard]] double fraction() const noexcept;
};

/// The content of --status, documented in README.md.
[[nodiscard]] boost::json::object status_json(const JobStatus& status);

/// The content of --metrics: Prometheus' text format, for node_exporter's textfile collector. Every series has the
/// label `output`, so that several jobs of a machine can lie in one directory.
[[nodiscard]] std::string status_metrics(const JobStatus& status);

}  // namespace halfquad
