#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "runtime/progress.h"
#include "runtime/stop_flag.h"
#include "sharding/plain_model.h"
#include "sharding/value_histogram.h"

namespace halfquad {

struct LayerHistogramOptions {
  int threads = 1;
  std::uint64_t memory_bytes = 2ULL << 30;
  ReadMode read_mode = ReadMode::kAuto;
};

/// Counts the weights of those of `modules` that `model`, which is output's, has, in their order; with `source` its
/// weights and the differences too. The counts depend on no option. Throws kBadInput for a layer whose shape the
/// source has otherwise.
[[nodiscard]] std::vector<LayerHistogram> layer_histograms(FileSystem& fs, const Checkpoint& output,
                                                           const PlainModel& model, const Checkpoint* source,
                                                           std::span<const std::string> modules,
                                                           const LayerHistogramOptions& options,
                                                           ProgressCounters& progress, const StopFlag& stop);

/// Bytes that counting goes through, for progress: of `modules` in `model`, and as many elements of the source.
[[nodiscard]] std::uint64_t layer_histogram_bytes(const PlainModel& model, const Checkpoint* source,
                                                  std::span<const std::string> modules);

}  // namespace halfquad
