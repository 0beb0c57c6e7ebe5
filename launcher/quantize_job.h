#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "launcher/context.h"
#include "launcher/job.h"
#include "launcher/job_monitor.h"
#include "launcher/report.h"
#include "launcher/run_quantize.h"
#include "runtime/progress.h"
#include "runtime/trace.h"
#include "sharding/device_set.h"
#include "sharding/job_leader.h"
#include "sharding/rank_job.h"

namespace halfquad {

/// What a rank works with beside its cores and memory.
struct RankTools {
  DeviceSet* devices = nullptr;
  Trace* trace = nullptr;
};

/// What each rank does for a job, `processes` ranks being on this machine. Throws kOutOfMemory for a budget that is too
/// small. All arguments must outlive the result.
[[nodiscard]] RankJob rank_job(const Context& context, const Job& job, const QuantizeOptions& options, int processes,
                               const RankTools& tools);

/// How a job is led, and whom it tells what.
struct Leading {
  JobLeader& leader;
  int processes = 1;  ///< Ranks on this machine.
  std::function<void(const std::string&)> warn;
  /// Given the job's counters before any work; what it returns lives until the work is done. May be empty.
  std::function<std::shared_ptr<void>(const ProgressCounters&, const ProgressTotals&)> watch = {};
  JobMonitor* monitor = nullptr;  ///< Told of every phase, when there is one.
};

struct FinishedJob {
  Job job;
  RunResult result;
  RunFacts facts;
};

/// Does the job as rank 0, from headers to the renamed output, with its summary on context.out. `command` goes into
/// the report. Throws Error without having told the other ranks: JobLeader::fail() does.
FinishedJob lead_job(const Context& context, const QuantizeOptions& options, const std::vector<std::string>& command,
                     const Leading& by);

}  // namespace halfquad
