#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "runtime/progress.h"
#include "runtime/stop_flag.h"

namespace halfquad {

/// Reads the given tensors (indices into checkpoint.tensors()) once and returns those that hold a NaN or an infinity,
/// ascending. Memory: 8 MiB a thread.
[[nodiscard]] std::vector<std::size_t> find_nonfinite_tensors(FileSystem& fs, const Checkpoint& checkpoint,
                                                              std::span<const std::size_t> tensors, int threads,
                                                              ReadMode mode, ProgressCounters& progress,
                                                              const StopFlag& stop);

}  // namespace halfquad
