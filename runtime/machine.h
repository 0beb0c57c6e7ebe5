#pragma once

#include <cstdint>
#include <string>

namespace halfquad {

/// Cores this process may use: the affinity mask, cut by a cgroup CPU quota; at least 1.
[[nodiscard]] int usable_cores();

/// Memory this process may still take: MemAvailable, cut by the cgroup limits above it. Bytes.
[[nodiscard]] std::uint64_t available_memory_bytes();

/// Largest resident set of this process so far. Bytes.
[[nodiscard]] std::uint64_t peak_resident_bytes();

/// "AMD EPYC 9554 64-Core Processor", or "unknown CPU".
[[nodiscard]] std::string cpu_model();

}  // namespace halfquad
