#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "io/file_system.h"
#include "runtime/stop_flag.h"
#include "sharding/output_layout.h"
#include "sharding/plan.h"
#include "sharding/wire.h"

namespace halfquad {

/// How the ranks' results come together in the weight files.
enum class Assembly : std::uint8_t {
  kAuto,    ///< Ranks that see the output write it; the others send them their results.
  kDirect,  ///< Every rank writes; one that does not see the output is an error.
  kGather,  ///< Every file is written by one rank, which the others send their results.
};

/// One rank's part in the assembly.
struct AssemblyRole {
  std::vector<int> writers;  ///< By file: the rank that writes what this rank has for it.
  bool receives = false;     ///< Other ranks send to this one.

  [[nodiscard]] bool writes(int self) const;  ///< Whether it has the files open at all.
  [[nodiscard]] bool sends(int self) const;

  void write(WireWriter& out) const;
  static AssemblyRole read(WireReader& in);
};

/// Every rank's part. `sees[rank]`: whether that rank sees the output's file system; rank 0 does.
[[nodiscard]] std::vector<AssemblyRole> assembly_roles(Assembly assembly, const std::vector<bool>& sees,
                                                       std::size_t files);

/// Memory that sending and receiving take out of a rank's budget: no more than leaves its pipeline the least that it
/// needs, as long as the largest result fits. Bytes.
struct AssemblyMemory {
  std::uint64_t send = 0;     ///< Copies of what is on its way.
  std::uint64_t receive = 0;  ///< What has come and is not yet written.
};
[[nodiscard]] AssemblyMemory assembly_memory(const AssemblyRole& role, int self, const Plan& plan, int senders,
                                             std::uint64_t memory_bytes);

/// Memory for holding tiles of transposed tensors, so that what lies side by side is written at once
/// (WeightFiles::combine); nothing where `layout` has no such tensors. `free_bytes`: of the budget, beyond the least
/// that the rank needs. Bytes.
[[nodiscard]] std::uint64_t combining_memory(const OutputLayout& layout, std::uint64_t free_bytes);

/// The file that tells whether ranks see the same file system: rank 0 writes `token` into OUT.partial, the others look
/// for it.
void leave_probe(FileSystem& fs, const std::filesystem::path& partial, std::string_view token);
/// Whether it is there. A name can take a while to appear on a network file system, so this looks again for
/// `patience`; throws kInterrupted when `stop` is requested meanwhile.
[[nodiscard]] bool find_probe(FileSystem& fs, const std::filesystem::path& partial, std::string_view token,
                              std::chrono::milliseconds patience, const StopFlag& stop);
[[nodiscard]] std::string random_token();

}  // namespace halfquad
