#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "kernels/solver.h"
#include "runtime/progress.h"
#include "runtime/stop_flag.h"
#include "runtime/trace.h"
#include "sharding/device_set.h"
#include "sharding/ledger.h"
#include "sharding/output_layout.h"
#include "sharding/plan.h"
#include "sharding/weight_files.h"
#include "sharding/work_share.h"

namespace halfquad {

class GivenImportance;

/// What to do when a weight is NaN or infinite. (Keeping the original of such a tensor is decided before the layout.)
enum class NonFinite : std::uint8_t { kError, kZero };

struct RunOptions {
  int threads = 1;                          ///< Solving workers.
  int writers = 0;                          ///< Writing threads; 0: few, as fits a disk.
  std::uint64_t memory_bytes = 2ULL << 30;  ///< Budget of all buffers.
  ReadMode read_mode = ReadMode::kAuto;
  NonFinite nonfinite = NonFinite::kError;
  std::function<std::unique_ptr<Solver>()> make_solver;  ///< One call per worker.
  DeviceSet* devices = nullptr;                          ///< Solve beside the workers, when there are any.
  /// Devices solve alone; a host worker takes the place of one that cannot.
  bool devices_only = false;
  const GivenImportance* importance = nullptr;  ///< Of the layers with Importance::kFile, when there are any.
  Trace* trace = nullptr;                       ///< Told what every thread does, when there is one.
};

/// What one pipeline measured about itself.
struct PipelineStats {
  std::uint64_t peak_buffer_bytes = 0;
  std::uint64_t bytes_received = 0;        ///< Of other ranks' results, to be written by this one.
  std::uint64_t bytes_by_device_link = 0;  ///< Of these, over links between devices.
  std::uint64_t tiles_reread = 0;    ///< Given up for memory before their tensor was decided, so read and solved twice.
  std::uint64_t strips_redone = 0;   ///< Parts of held tiles solved again because their tensor stopped early.
  std::uint64_t device_weights = 0;  ///< Weights whose first or only solve was a device's.
  double read_wait_seconds = 0, solve_seconds = 0, write_seconds = 0;  ///< Summed over threads.

  /// The largest of the peaks, the sums of the rest.
  void add(const PipelineStats& other) noexcept;
};

struct RunResult : PipelineStats {
  std::vector<TensorResult> tensors;   ///< One per OutputLayout::quantized().
  std::vector<std::string> checksums;  ///< One per OutputLayout::entries().
};

/// Streams the items that `share` hands out from the checkpoint through the solvers into `sink`. Reads, solves and
/// writes of different tiles overlap; memory stays inside the budget. The bytes depend on none of the options but
/// `nonfinite`. `settled[i]`: what an earlier run decided about tensor i, if it did; empty: nothing.
/// Throws the first error of any stage, naming tensor, file and offset, or kInterrupted soon after `stop` is requested.
[[nodiscard]] PipelineStats run_share(FileSystem& fs, const Checkpoint& checkpoint, const OutputLayout& layout,
                                      const Plan& plan, OutputSink& sink, const RunOptions& options,
                                      std::span<const std::optional<TensorDecision>> settled, WorkShare& share,
                                      ProgressCounters& progress, const StopFlag& stop);

}  // namespace halfquad
