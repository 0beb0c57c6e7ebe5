#include "sharding/assembly.h"

#include <algorithm>
#include <random>
#include <thread>

#include <fmt/format.h>

#include "io/output_directory.h"
#include "runtime/check.h"

namespace halfquad {
namespace {

constexpr std::string_view kProbeName = "probe";
constexpr std::uint64_t kProbeBytes = 256;
constexpr std::uint64_t kMostReceiveBytes = 256ULL << 20;
constexpr std::uint64_t kMostCombineBytes = 512ULL << 20;  // two of the largest tensors of a model of 400 B weights

std::filesystem::path probe_path(const std::filesystem::path& partial) { return partial / kPrivateFolder / kProbeName; }

bool holds(FileSystem& fs, const std::filesystem::path& path, std::string_view token) {
  try {
    return fs.kind(path) == FileKind::kFile && read_text(fs, path, kProbeBytes) == token;
  } catch (const Error&) {
    return false;  // not to be read from here is not to be seen from here
  }
}

/// Makes a network file system ask its server again instead of remembering that a name is not there.
void refresh(FileSystem& fs, const std::filesystem::path& partial) {
  try {
    for (const std::filesystem::path& folder : {partial.parent_path(), partial, partial / kPrivateFolder}) {
      if (fs.kind(folder) == FileKind::kDirectory) static_cast<void>(fs.list(folder));
    }
  } catch (const Error&) {
    // It is not there, or not to be listed: the next look finds out.
  }
}

}  // namespace

bool AssemblyRole::writes(int self) const {
  return receives || std::find(writers.begin(), writers.end(), self) != writers.end();
}

bool AssemblyRole::sends(int self) const {
  return std::any_of(writers.begin(), writers.end(), [self](int writer) { return writer != self; });
}

void AssemblyRole::write(WireWriter& out) const {
  out.put(static_cast<std::uint64_t>(writers.size()));
  for (const int writer : writers) out.put(writer);
  out.put(receives);
}

AssemblyRole AssemblyRole::read(WireReader& in) {
  AssemblyRole role;
  role.writers.resize(in.count(sizeof(int)));
  for (int& writer : role.writers) in.get(writer);
  in.get(role.receives);
  return role;
}

std::vector<AssemblyRole> assembly_roles(Assembly assembly, const std::vector<bool>& sees, std::size_t files) {
  std::vector<int> candidates;
  for (std::size_t rank = 0; rank < sees.size(); ++rank) {
    if (sees[rank]) candidates.push_back(static_cast<int>(rank));
  }
  // Apart from each other, so that the writers of several files are on several nodes where that is possible.
  if (assembly == Assembly::kGather && files < candidates.size()) {
    for (std::size_t i = 0; i < files; ++i) candidates[i] = candidates[i * candidates.size() / files];
    candidates.resize(files);
  }
  std::vector<AssemblyRole> roles(sees.size());
  std::size_t senders = 0;
  for (std::size_t rank = 0; rank < sees.size(); ++rank) {
    const bool itself = assembly != Assembly::kGather && sees[rank];
    // With one writer a file, the file decides; otherwise senders are spread over the writers.
    const std::size_t shift = assembly == Assembly::kGather || itself ? 0 : senders++;
    for (std::size_t file = 0; file < files; ++file) {
      const int writer = itself ? static_cast<int>(rank) : candidates[(file + shift) % candidates.size()];
      roles[rank].writers.push_back(writer);
      if (writer != static_cast<int>(rank)) roles[static_cast<std::size_t>(writer)].receives = true;
    }
  }
  return roles;
}

AssemblyMemory assembly_memory(const AssemblyRole& role, int self, const Plan& plan, int senders,
                               std::uint64_t memory_bytes) {
  std::uint64_t largest = 0;
  for (const WorkItem& item : plan.items) largest = std::max(largest, item.output_bytes);
  AssemblyMemory memory;
  if (role.sends(self)) memory.send = static_cast<std::uint64_t>(senders) * largest;
  if (role.receives) {
    const std::uint64_t rest = memory_bytes - std::min(memory_bytes, minimum_memory(plan) + memory.send);
    memory.receive = std::max(largest, std::min({memory_bytes / 4, rest, kMostReceiveBytes}));
  }
  return memory;
}

std::uint64_t combining_memory(const OutputLayout& layout, std::uint64_t free_bytes) {
  const bool transposed = std::any_of(layout.contents().begin(), layout.contents().end(),
                                      [](const OutputTensor& content) { return content.blocks.across_runs; });
  return transposed ? std::min(free_bytes / 4, kMostCombineBytes) : 0;
}

void leave_probe(FileSystem& fs, const std::filesystem::path& partial, std::string_view token) {
  write_text(fs, probe_path(partial), std::string(token));
  fs.sync_directory(partial / kPrivateFolder);
}

bool find_probe(FileSystem& fs, const std::filesystem::path& partial, std::string_view token,
                std::chrono::milliseconds patience, const StopFlag& stop) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (std::chrono::milliseconds pause{5};; pause = std::min(2 * pause, std::chrono::milliseconds(500))) {
    if (holds(fs, probe_path(partial), token)) return true;
    if (std::chrono::steady_clock::now() >= deadline) return false;
    HALFQUAD_REQUIRE(!stop.requested(), kInterrupted, "interrupted: a stop was requested");
    std::this_thread::sleep_for(pause);
    refresh(fs, partial);
  }
}

std::string random_token() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

}  // namespace halfquad
