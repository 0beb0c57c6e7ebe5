#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "runtime/communicator.h"
#include "runtime/error.h"
#include "sharding/assembly.h"
#include "sharding/device_assignment.h"
#include "sharding/job_tags.h"
#include "sharding/output_layout.h"
#include "sharding/plan.h"
#include "sharding/resume.h"
#include "sharding/runner.h"
#include "sharding/scan.h"
#include "sharding/work_queue.h"

namespace halfquad {

/// What every rank of a job knows by itself, from the same arguments and headers.
struct RankJob {
  FileSystem& fs;
  const Checkpoint& checkpoint;
  const OutputLayout& layout;
  const Plan& plan;
  std::filesystem::path partial;  ///< OUT.partial.
  WriteMode write_mode = WriteMode::kDirect;
  RunOptions run;
  Schedule schedule = Schedule::kDynamic;
  Assembly assembly = Assembly::kAuto;
  Fingerprint fingerprint;
  const std::string* measured = nullptr;          ///< For JobFolder::create().
  std::chrono::milliseconds keep_interval{1000};  ///< How often finished work is made durable.
};

/// Likewise of a search for NaN and infinity, which comes before the layout.
struct RankScan {
  FileSystem& fs;
  const NonfiniteScan& scan;
  int threads = 1;
  ReadMode read_mode = ReadMode::kAuto;
  Fingerprint fingerprint;  ///< Of the job as if nothing were found.
};

void write_fingerprint(WireWriter& out, const Fingerprint& fingerprint);
[[nodiscard]] Fingerprint read_fingerprint(WireReader& in);
void write_records(WireWriter& out, std::span<const ItemRecord> records);
[[nodiscard]] std::vector<ItemRecord> read_records(WireReader& in);
void write_tensors(WireWriter& out, std::span<const std::size_t> tensors);
[[nodiscard]] std::vector<std::size_t> read_tensors(WireReader& in);
void write_devices(WireWriter& out, std::span<const SeenDevice> devices);
[[nodiscard]] std::vector<SeenDevice> read_devices(WireReader& in);
void write_stats(WireWriter& out, const PipelineStats& stats);
[[nodiscard]] PipelineStats read_stats(WireReader& in);

void write_events(WireWriter& out, std::span<const Trace::Event> events);
[[nodiscard]] std::vector<Trace::Event> read_events(WireReader& in);

/// How one rank's work ended.
struct RankOutcome {
  std::optional<Error> error;
  PipelineStats stats;
};
void write_outcome(WireWriter& out, const RankOutcome& outcome);
[[nodiscard]] RankOutcome read_outcome(WireReader& in);

/// "120 s": for messages.
[[nodiscard]] std::string seconds_text(std::chrono::milliseconds time);

/// How long ranks wait for each other.
struct JobLimits {
  std::chrono::milliseconds silence{120'000};  ///< A rank that nothing was heard of for this long is taken for dead.
  std::chrono::milliseconds life_sign{500};    ///< Signs of life are this far apart.
  std::chrono::milliseconds probe{3'000};      ///< How long a rank looks for rank 0's files before it takes them for
                                               ///< out of its sight.
  std::chrono::milliseconds wind_up{5'000};    ///< How long a leader waits for the others after an error.
  std::chrono::microseconds clock_ahead{0};    ///< Added to this rank's wall clock: for tests.
};

}  // namespace halfquad
