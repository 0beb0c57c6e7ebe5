#include "sharding/runner.h"

#include <algorithm>

#include "sharding/pipeline.h"

namespace halfquad {

void PipelineStats::add(const PipelineStats& other) noexcept {
  peak_buffer_bytes = std::max(peak_buffer_bytes, other.peak_buffer_bytes);
  bytes_received += other.bytes_received;
  bytes_by_device_link += other.bytes_by_device_link;
  tiles_reread += other.tiles_reread;
  strips_redone += other.strips_redone;
  device_weights += other.device_weights;
  read_wait_seconds += other.read_wait_seconds;
  solve_seconds += other.solve_seconds;
  write_seconds += other.write_seconds;
}

PipelineStats run_share(FileSystem& fs, const Checkpoint& checkpoint, const OutputLayout& layout, const Plan& plan,
                        OutputSink& sink, const RunOptions& options,
                        std::span<const std::optional<TensorDecision>> settled, WorkShare& share,
                        ProgressCounters& progress, const StopFlag& stop) {
  return Pipeline(fs, {checkpoint, layout, plan, sink, options, settled, share, progress, stop}).run();
}

}  // namespace halfquad
