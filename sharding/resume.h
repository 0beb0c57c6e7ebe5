#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/file_system.h"
#include "runtime/stop_flag.h"
#include "sharding/item_record.h"
#include "sharding/output_layout.h"
#include "sharding/plan.h"

namespace halfquad {

/// What decides a job's bytes, part by part, so that a refusal can name the part that differs.
using Fingerprint = std::vector<std::pair<std::string, std::string>>;

/// `nonfinite`: the policy's name. `version`: of the program. `importance`: checksum of the importance file, or
/// nothing.
[[nodiscard]] Fingerprint fingerprint_of(const Checkpoint& checkpoint, const OutputLayout& layout,
                                         const std::string& nonfinite, const std::string& version,
                                         const std::string& importance = {});

/// The parts that differ, as a sentence's part ("the source, the scale dtype"); empty when none does.
[[nodiscard]] std::string differences(const Fingerprint& ours, const Fingerprint& theirs);

/// File in the private folder with what a job measured of its layers' inputs.
inline constexpr std::string_view kMeasuredName = "importance.safetensors";

/// The private folder of an unfinished output: the job's description and the journals (io/FORMAT.md).
class JobFolder {
 public:
  /// `partial`: OUT.partial.
  JobFolder(FileSystem& fs, std::filesystem::path partial);

  /// What began this folder; nothing when no job did, or none that can be read.
  [[nodiscard]] std::optional<Fingerprint> fingerprint() const;
  /// `importance`: what the job measured before its work (kMeasuredName), or null.
  void create(const Fingerprint& fingerprint, const std::string* importance = nullptr);

  /// Every intact record of every journal, in no particular order. Torn or damaged tails are left out.
  [[nodiscard]] std::vector<ItemRecord> records(const Plan& plan, const OutputLayout& layout) const;
  /// A number no run has used yet.
  [[nodiscard]] int next_run() const;
  /// The journal of `rank` in `run`.
  [[nodiscard]] std::filesystem::path journal(int run, int rank) const;

 private:
  FileSystem& fs_;
  std::filesystem::path folder_;
};

/// Reads back what `records` say was written and returns the items whose bytes are not those. `partial`: where the
/// weight files are; `memory_bytes`: budget of the buffers.
[[nodiscard]] std::vector<std::uint64_t> damaged_items(FileSystem& fs, const std::filesystem::path& partial,
                                                       const OutputLayout& layout, std::span<const ItemRecord> records,
                                                       int threads, std::uint64_t memory_bytes, const StopFlag& stop);

}  // namespace halfquad
