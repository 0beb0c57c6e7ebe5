#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "io/safetensors_writer.h"
#include "runtime/communicator.h"
#include "runtime/error.h"
#include "sharding/hqq_layout.h"
#include "sharding/plan.h"
#include "sharding/resume.h"
#include "sharding/runner.h"
#include "sharding/work_queue.h"

namespace halfquad {

/// What every rank of a job knows by itself, from the same arguments and headers.
struct RankJob {
  FileSystem& fs;
  const Checkpoint& checkpoint;
  const OutputLayout& layout;
  const Plan& plan;
  std::filesystem::path partial;  ///< OUT.partial.
  std::string weights_name;       ///< The weight file in it.
  std::map<std::string, std::string> metadata;
  WriteMode write_mode = WriteMode::kDirect;
  RunOptions run;
  Schedule schedule = Schedule::kDynamic;
  Fingerprint fingerprint;
  std::chrono::milliseconds keep_interval{1000};  ///< How often finished work is made durable.
};

/// Messages between rank 0, which leads, and the others, which follow.
enum class Tag : int {
  kHello,     ///< Follower: its fingerprint and host.
  kSetup,     ///< Leader: run number, records to be checked against the file.
  kChecked,   ///< Follower: items whose bytes are damaged.
  kGo,        ///< Leader: tensors that are settled already.
  kWant,      ///< Follower: items, please.
  kRange,     ///< Leader: items, or none any more.
  kPasses,    ///< Follower: FirstPasses.
  kDecision,  ///< Leader: a tensor's decision.
  kRecords,   ///< Follower: durable records.
  kProgress,  ///< Follower: counters; a sign of life too.
  kAlive,     ///< Leader: a sign of life.
  kTrace,     ///< Follower: its time line, before kEnded.
  kEnded,     ///< Follower: its work is over, with an error or without.
  kStop,      ///< Leader: wind up.
  kBye,       ///< Leader: the job is over; an error's code, or none.
};

[[nodiscard]] inline Message message_to(int rank, Tag tag, WireWriter& out) {
  return {rank, static_cast<int>(tag), out.take()};
}
[[nodiscard]] inline Message message_to(int rank, Tag tag) { return {rank, static_cast<int>(tag), {}}; }

void write_fingerprint(WireWriter& out, const Fingerprint& fingerprint);
[[nodiscard]] Fingerprint read_fingerprint(WireReader& in);
void write_records(WireWriter& out, std::span<const ItemRecord> records);
[[nodiscard]] std::vector<ItemRecord> read_records(WireReader& in);
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

/// How long ranks wait for each other.
struct JobLimits {
  std::chrono::milliseconds silence{120'000};  ///< A rank that nothing was heard of for this long is taken for dead.
  std::chrono::milliseconds life_sign{500};    ///< Signs of life are this far apart.
  std::chrono::milliseconds wind_up{5'000};    ///< How long a leader waits for the others after an error.
};

}  // namespace halfquad
