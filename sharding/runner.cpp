#include "sharding/runner.h"

#include <algorithm>

#include "sharding/pipeline.h"

namespace halfquad {
void PipelineStats::add(const PipelineStats& other) noexcept {
  peak_buffer_bytes = std::max(peak_buffer_bytes, other.peak_buffer_bytes);
  tiles_reread += other.tiles_reread;
  strips_redone += other.strips_redone;
  read_wait_seconds += other.read_wait_seconds;
  solve_seconds += other.solve_seconds;
  write_seconds += other.write_seconds;
}

void write_constants(const OutputLayout& layout, SafetensorsWriter& writer) {
  for (std::size_t i = 0; i < layout.contents().size(); ++i) {
    const OutputTensor& content = layout.contents()[i];
    if (content.kind == OutputTensor::Kind::kConstant) {
      writer.write(i, 0, std::as_bytes(std::span(content.constant)));
    }
  }
}

PipelineStats run_share(FileSystem& fs, const Checkpoint& checkpoint, const OutputLayout& layout, const Plan& plan,
                        SafetensorsWriter& writer, const RunOptions& options,
                        std::span<const std::optional<TensorDecision>> settled, WorkShare& share,
                        ProgressCounters& progress, const StopFlag& stop) {
  return Pipeline(fs, {checkpoint, layout, plan, writer, options, settled, share, progress, stop}).run();
}

}  // namespace halfquad
