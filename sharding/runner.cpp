#include "sharding/runner.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "sharding/pipeline.h"

namespace halfquad {
namespace {

/// The whole job in one pipeline.
class WholeShare final : public WorkShare {
 public:
  WholeShare(const Plan& plan, const OutputLayout& layout, ProgressCounters& progress)
      : queue_(plan, 1, Schedule::kStatic), board_(layout), ledger_(plan, layout), progress_(progress) {
    ledger_.add_constants();
    progress_.tensors_done = ledger_.tensors_done();
  }

  void start(OnDecided on_decided) override { listener_.set(std::move(on_decided)); }
  void finish() override { listener_.set({}); }

  [[nodiscard]] std::optional<ItemRange> next() override {
    const std::lock_guard lock(mutex_);
    return queue_.next(0);
  }

  void add_first_passes(const FirstPasses& passes) override {
    std::optional<TensorDecision> decision;
    {
      const std::lock_guard lock(mutex_);
      decision = board_.add(passes);
    }
    if (decision) listener_.tell(passes.tensor, *decision);
  }

  void done(ItemRecord record) override {
    const std::lock_guard lock(mutex_);
    ledger_.add(record);
    progress_.tensors_done = ledger_.tensors_done();
  }

  /// After the pipeline has ended.
  [[nodiscard]] const Ledger& ledger() const noexcept { return ledger_; }

 private:
  std::mutex mutex_;
  DecisionListener listener_;
  WorkQueue queue_;
  DecisionBoard board_;
  Ledger ledger_;
  ProgressCounters& progress_;
};

}  // namespace

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

RunResult run_plan(FileSystem& fs, const Checkpoint& checkpoint, const OutputLayout& layout, const Plan& plan,
                   SafetensorsWriter& writer, const RunOptions& options, ProgressCounters& progress,
                   const StopFlag& stop) {
  WholeShare share(plan, layout, progress);
  write_constants(layout, writer);
  RunResult result;
  static_cast<PipelineStats&>(result) =
      run_share(fs, checkpoint, layout, plan, writer, options, {}, share, progress, stop);
  result.tensors = share.ledger().tensors();
  result.checksums = share.ledger().checksums();
  return result;
}

}  // namespace halfquad
