#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "io/file_system.h"
#include "runtime/progress.h"
#include "runtime/stop_flag.h"
#include "sharding/quantized_model.h"

namespace halfquad {

/// How often each code of a layer is used, and between what its scales and zeros lie. Zeros as in (q - zero)·scale.
struct CodeHistogram {
  std::size_t layer = 0;              ///< Index into QuantizedModel::layers().
  std::vector<std::uint64_t> counts;  ///< By code, 0 to the largest of the width.
  float least_scale = 0, most_scale = 0;
  float least_zero = 0, most_zero = 0;
};

struct HistogramOptions {
  int threads = 1;
  std::uint64_t memory_bytes = 2ULL << 30;
  ReadMode read_mode = ReadMode::kAuto;
};

/// Counts the codes of `layers`, indices into output.layers(). Throws kBadInput naming a layer that holds a code beyond
/// its width.
[[nodiscard]] std::vector<CodeHistogram> code_histograms(FileSystem& fs, const QuantizedModel& output,
                                                         std::span<const std::size_t> layers,
                                                         const HistogramOptions& options, ProgressCounters& progress,
                                                         const StopFlag& stop);

}  // namespace halfquad
