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

/// Cores for one of `processes` on this machine: what it is bound to, or its part of the machine when it is not.
[[nodiscard]] int fair_cores(int processes);

/// This machine's name in the network; "unknown host" when the system does not tell.
[[nodiscard]] std::string host_name();

/// "AMD EPYC 9554 64-Core Processor", or "unknown CPU".
[[nodiscard]] std::string cpu_model();

}  // namespace halfquad
