#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "launcher/context.h"
#include "launcher/job_monitor.h"
#include "launcher/options.h"
#include "launcher/target.h"
#include "runtime/log.h"
#include "runtime/progress.h"
#include "sharding/enclosed_files.h"
#include "sharding/given_importance.h"
#include "sharding/output_layout.h"
#include "sharding/plan.h"
#include "sharding/rank_job.h"
#include "sharding/rules.h"

namespace halfquad {

/// What a job converts, for messages and the report.
struct ConvertedFrom {
  std::string path;
  std::string format;
  std::vector<std::string> changes;  ///< For each decision why the layer may not come out as it went in, or nothing.
  std::vector<std::string> notes;    ///< One sentence each.
};

/// Everything about a quantization that is known before the first weight is read.
struct Job {
  Checkpoint checkpoint;
  std::vector<Decision> decisions;
  SourceTexts texts;  ///< That the format wants.
  OutputLayout layout;
  Plan plan;
  std::shared_ptr<const GivenImportance> importance = nullptr;   ///< When --importance names a file, or for `measured`.
  std::optional<ConvertedFrom> converted = {};                   ///< When the source is quantized already.
  std::optional<ChosenSpec> chosen = {};                         ///< When a budget is given instead of bits.
  std::vector<EnclosedFile> enclosed = {};                       ///< Side files inside what is converted.
  std::shared_ptr<const MeasuredImportance> measured = nullptr;  ///< SpecOptions::measured

  /// Whether `importance` is what the job itself measured.
  [[nodiscard]] bool has_measured() const noexcept { return importance && measured && measured->file; }
};

/// Of the texts that the format wants, those that are beside the checkpoint.
[[nodiscard]] SourceTexts read_texts(FileSystem& fs, const Checkpoint& checkpoint, const Format& format);

/// Checksum of the job's importance file, or what a rank would have measured other than the rest; empty without
/// either.
[[nodiscard]] std::string importance_digest(const Job& job);

/// How the search for NaN and infinity is done: by default, by this process alone.
struct NonfiniteSearch {
  int processes = 1;  ///< That share this machine.
  std::function<std::vector<std::size_t>(const RankScan&, ProgressCounters&)> find = {};
  JobMonitor* monitor = nullptr;  ///< Told of its progress, when there is one.
};

/// From headers and options to a plan. Reads weights only for --nonfinite keep-original, which has to know the tensors
/// that hold a NaN or an infinity before the output is laid out.
[[nodiscard]] Job prepare_job(const Context& context, const std::filesystem::path& model, const SpecOptions& spec,
                              const MachineOptions& machine, const NonfiniteSearch& search = {});

/// Warnings about a job, one sentence each: layers kept for their shape, and names that loaders would confuse.
[[nodiscard]] std::vector<std::string> job_warnings(const Job& job);

/// Throws kOutOfMemory naming the minimum when `memory_bytes` is not enough for the plan.
void require_memory(const Plan& plan, std::uint64_t memory_bytes);

}  // namespace halfquad
