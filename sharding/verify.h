#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <boost/json/object.hpp>

#include "io/file_system.h"
#include "kernels/solver.h"
#include "runtime/progress.h"
#include "runtime/stop_flag.h"
#include "sharding/quantized_model.h"

namespace halfquad {

struct VerifyOptions {
  int threads = 1;
  std::uint64_t memory_bytes = 2ULL << 30;
  ReadMode read_mode = ReadMode::kAuto;
  std::function<std::unique_ptr<Solver>()> make_solver;
};

struct LayerError {
  std::string module;
  ErrorSums error;
  std::int64_t weights = 0;
  std::optional<double> weighted = {};  ///< sqrt(sum h (w - ŵ)² / sum h w²), where verify_quality() found it,
  std::optional<double> nearest = {};   ///< and sqrt(sum (w - ŵ)² / sum w²) of round to nearest.
};

struct VerifyResult {
  std::vector<std::string> problems;  ///< One sentence each; empty means all is well.
  std::vector<LayerError> layers;     ///< Filled when a source was given.
  /// With a source: how many of its tensors became what ("quantized", "kept: norm", "not in the file: ...").
  std::map<std::string, std::size_t> accounts;
  std::vector<std::string> notes;  ///< What is not in the output by its format's nature, one sentence each.
  std::uint64_t checksums_compared = 0;
  std::uint64_t bytes_read = 0;
};

/// Checks a GGUF output, whose names are not the source's, against `source`; verify_output() without one checks the
/// rest. Adds to `result`: tensors of the source that are nowhere, kept ones that are not what the source's become,
/// errors that are not the report's. Throws what plain_model() does.
void verify_against_source(FileSystem& fs, const QuantizedModel& output,
                           const std::optional<boost::json::object>& report, const Checkpoint& source,
                           const VerifyOptions& options, ProgressCounters& progress, const StopFlag& stop,
                           VerifyResult& result);

/// Checks an output: the structure loaders need, every checksum of `report` (halfquad_report.json, when there is one),
/// and against `source` when given: no tensor missing or extra, kept tensors equal bit for bit, each layer's error
/// recomputed and compared with the report's. Differences become `problems`; only what cannot be read at all throws.
[[nodiscard]] VerifyResult verify_output(FileSystem& fs, const QuantizedModel& output,
                                         const std::optional<boost::json::object>& report, const Checkpoint* source,
                                         const VerifyOptions& options, ProgressCounters& progress,
                                         const StopFlag& stop);

}  // namespace halfquad
