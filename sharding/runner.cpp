#include "sharding/runner.h"

#include "sharding/pipeline.h"

namespace halfquad {

RunResult run_plan(FileSystem& fs, const Checkpoint& checkpoint, const OutputLayout& layout, const Plan& plan,
                   SafetensorsWriter& writer, const RunOptions& options, ProgressCounters& progress,
                   const StopFlag& stop) {
  return Pipeline(fs, {checkpoint, layout, plan, writer, options, progress, stop}).run();
}

}  // namespace halfquad
