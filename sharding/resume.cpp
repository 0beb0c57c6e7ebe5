#include "sharding/resume.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <mutex>
#include <string_view>

#include <boost/json/object.hpp>
#include <fmt/format.h>

#include "io/block_digest.h"
#include "io/journal.h"
#include "io/json.h"
#include "io/output_directory.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "sharding/source_digest.h"
#include "sharding/stored_tile.h"
#include "sharding/wire.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::string_view kFormatName = "halfquad-job";
constexpr std::string_view kJournalPrefix = "journal-";
constexpr std::uint64_t kMostDescriptionBytes = 1 << 20;

std::string digest_text(WireWriter& out) { return fmt::format("{:016x}", BlockDigest::hash(out.take())); }

std::string specs_digest(const OutputLayout& layout) {
  // By name: the order in the files is another part.
  std::map<std::string_view, const TensorEntry*> entries;
  for (const TensorEntry& entry : layout.entries()) entries.emplace(entry.name, &entry);
  WireWriter out;
  for (const auto& [name, entry] : entries) {
    out.put(name);
    out.put(entry->dtype);
    out.put(entry->bytes());
    for (const std::int64_t extent : entry->shape) out.put(extent);
  }
  for (const QuantizedTensor& tensor : layout.quantized()) {
    const QuantSpec& spec = tensor.spec;
    out.put(tensor.module);
    out.put(spec.width);
    out.put(spec.group_size);
    out.put(spec.axis);
    out.put(spec.solver);
    out.put(spec.iters);
    out.put(spec.lp_norm);
    out.put(spec.beta);
    out.put(spec.kappa);
    out.put(spec.round_zero);
    out.put(spec.channel_wise);
    out.put(tensor.given);
    out.put(spec.zeros);
    out.put(spec.super_blocks);
    out.put(spec.grid);
    out.put(spec.starts);
    out.put(spec.rounds);
    out.put(spec.importance);
    out.put(spec.importance_power);
  }
  return digest_text(out);
}

/// Where the modules, which come in the order of the source, are cut into files.
std::string files_digest(const OutputLayout& layout) {
  WireWriter out;
  for (const OutputFile& file : layout.files()) {
    out.put(file.name);
    out.put(static_cast<std::uint64_t>(layout.files().size() > 1 ? file.end - file.begin : 0));
  }
  return digest_text(out);
}

/// N of "journal-N-RANK", or nothing.
std::optional<int> run_of(std::string_view name) {
  if (!name.starts_with(kJournalPrefix)) return {};
  name.remove_prefix(kJournalPrefix.size());
  int run = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), run);
  if (error != std::errc{} || end == name.data() + name.size() || *end != '-' || run < 0) return {};
  return run;
}

/// Whether a record names an item of the plan and nothing but blocks of the layout.
bool fits(const ItemRecord& record, const Plan& plan, const OutputLayout& layout) {
  if (record.item >= plan.items.size() || record.blocks.empty()) return false;
  return std::all_of(record.blocks.begin(), record.blocks.end(), [&](const BlockSum& block) {
    return block.entry < layout.contents().size() && block.block < layout.contents()[block.entry].blocks.block_count();
  });
}

}  // namespace

Fingerprint fingerprint_of(const Checkpoint& checkpoint, const OutputLayout& layout, const std::string& nonfinite,
                           const std::string& version, const std::string& importance) {
  return {{"halfquad version", version},
          {"source", source_digest(checkpoint)},
          {"layers or their settings", specs_digest(layout)},
          {"--max-shard-size", files_digest(layout)},
          {"--format", std::string(layout.format().name())},
          {"scale dtype", std::string(name_of(layout.stored()))},
          {"--nonfinite", nonfinite},
          {"the importance file", importance}};
}

std::string differences(const Fingerprint& ours, const Fingerprint& theirs) {
  std::string text;
  for (const auto& ours_part : ours) {
    if (std::find(theirs.begin(), theirs.end(), ours_part) != theirs.end()) continue;
    text += (text.empty() ? "" : ", ") + ours_part.first;
  }
  if (text.empty() && ours.size() != theirs.size()) text = "halfquad version";
  return text;
}

JobFolder::JobFolder(FileSystem& fs, std::filesystem::path partial)
    : fs_(fs), folder_(std::move(partial) / kPrivateFolder) {}

std::optional<Fingerprint> JobFolder::fingerprint() const {
  const std::filesystem::path path = folder_ / kJobDescription;
  if (fs_.kind(path) != FileKind::kFile) return {};
  try {
    const json::value value = parse_json(read_text(fs_, path, kMostDescriptionBytes), kJobDescription);
    if (!value.is_object() || !value.as_object().contains("fingerprint")) return {};
    if (!value.at("fingerprint").is_object()) return {};
    Fingerprint fingerprint;
    for (const auto& [part, text] : value.at("fingerprint").as_object()) {
      if (!text.is_string()) return {};
      fingerprint.emplace_back(part, text.as_string());
    }
    return fingerprint;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kBadInput) throw;
    return {};  // the machine died while it was being written: nothing was done yet
  }
}

void JobFolder::create(const Fingerprint& fingerprint, const std::string* importance) {
  json::object parts;
  for (const auto& [part, text] : fingerprint) parts[part] = text;
  fs_.create_directory(folder_);
  if (importance != nullptr) write_text(fs_, folder_ / kMeasuredName, *importance);
  // Under its own name only when it is whole: its presence is what makes the folder one to continue.
  const std::filesystem::path unfinished = folder_ / "job.json.new";
  write_text(fs_, unfinished,
             pretty_json(json::object{{"format", kFormatName}, {"version", 1}, {"fingerprint", std::move(parts)}}));
  fs_.rename(unfinished, folder_ / kJobDescription);
  fs_.sync_directory(folder_);
}

std::vector<ItemRecord> JobFolder::records(const Plan& plan, const OutputLayout& layout) const {
  std::vector<ItemRecord> records;
  for (const std::string& name : fs_.list(folder_)) {
    if (!run_of(name)) continue;
    read_journal(fs_, folder_ / name, [&](std::span<const std::byte> bytes) {
      WireReader in(bytes);
      ItemRecord record = ItemRecord::read(in);
      if (fits(record, plan, layout)) records.push_back(std::move(record));
    });
  }
  return records;
}

int JobFolder::next_run() const {
  int next = 0;
  for (const std::string& name : fs_.list(folder_)) next = std::max(next, run_of(name).value_or(-1) + 1);
  return next;
}

std::filesystem::path JobFolder::journal(int run, int rank) const {
  return folder_ / fmt::format("{}{:04}-{:04}", kJournalPrefix, run, rank);
}

std::vector<std::uint64_t> damaged_items(FileSystem& fs, const std::filesystem::path& partial,
                                         const OutputLayout& layout, std::span<const ItemRecord> records, int threads,
                                         std::uint64_t memory_bytes, const StopFlag& stop) {
  if (records.empty()) return {};
  std::uint64_t longest = 0;
  for (const OutputTensor& content : layout.contents()) longest = std::max(longest, content.blocks.longest_block());
  const WorkerBuffers buffers(threads, Workspace::cost(longest) + OpenCheckpoint::kScratchBytes, memory_bytes);
  std::vector<std::unique_ptr<ReadFile>> files;
  for (const OutputFile& file : layout.files()) files.push_back(fs.open_read(partial / file.name, ReadMode::kAuto));

  std::mutex mutex;
  std::vector<std::uint64_t> damaged;
  parallel_for(buffers.workers(), static_cast<std::int64_t>(records.size()), stop, [&](int worker, std::int64_t index) {
    const ItemRecord& record = records[static_cast<std::size_t>(index)];
    Workspace workspace(buffers.of(worker));
    const std::span<std::byte> scratch = workspace.take(OpenCheckpoint::kScratchBytes);
    const std::span<std::byte> memory = workspace.take(longest);
    const bool intact = std::all_of(record.blocks.begin(), record.blocks.end(), [&](const BlockSum& block) {
      const std::vector<ByteRange> ranges = layout.contents()[block.entry].blocks.ranges_of(block.block);
      ReadFile& file = *files[layout.contents()[block.entry].file];
      gather_ranges(file, layout.file_offset(block.entry), ranges, scratch, memory.data());
      return BlockDigest::hash(memory.first(total_bytes(ranges))) == block.hash;
    });
    if (intact) return;
    const std::lock_guard lock(mutex);
    damaged.push_back(record.item);
  });
  return damaged;
}

}  // namespace halfquad
