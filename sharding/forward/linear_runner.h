#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/checkpoint.h"
#include "kernels/fused_gemm.h"
#include "runtime/progress.h"
#include "runtime/stop_flag.h"
#include "sharding/forward/decoder_model.h"
#include "sharding/forward/panels.h"
#include "sharding/forward/rank_exchange.h"
#include "sharding/open_checkpoint.h"
#include "sharding/stored_tile.h"

namespace halfquad {

/// Where weights are read from, and what becomes of a NaN or an infinity: a zero, or an error that names it.
struct WeightSource {
  const OpenCheckpoint& files;
  bool zero_nonfinite = false;
};

/// out = matrix·in + bias; with a gate, out = function(gate·in + its bias) * (matrix·in + bias).
struct LinearTask {
  const LinearPart* matrix = nullptr;
  const LinearPart* gate = nullptr;
  const Panels* in = nullptr;
  const Panels* out = nullptr;
};

/// Multiplies activations with matrices that are read from the checkpoint, a few rows at a time, by all ranks and
/// threads. Results are the same bytes for any number of them.
class LinearRunner {
 public:
  struct Parts {
    WeightSource source;
    RankExchange& exchange;
    const WorkerBuffers& buffers;  ///< Of worker_bytes() each.
    FusedMultiply multiply = nullptr;
    GateFunction gate = GateFunction::kSilu;
    ProgressCounters& progress;
    const StopFlag& stop;
  };
  explicit LinearRunner(const Parts& parts) : parts_(parts) {}

  /// Memory one worker needs for the model's matrices and `tokens` columns.
  [[nodiscard]] static std::uint64_t worker_bytes(const DecoderModel& model, std::int64_t tokens);

  /// Collective. Throws what reading does, naming tensor and file; kBadInput for a NaN or infinity in a weight.
  void run(const std::vector<LinearTask>& tasks);

 private:
  struct Item;
  [[nodiscard]] static std::vector<Item> cut(const std::vector<LinearTask>& tasks);
  void compute(const Item& item, std::span<std::byte> memory);
  void multiply(const LinearPart& part, const Item& item, float* out, std::int64_t stride, Workspace workspace);
  void exchange(std::span<const Item> items);

  Parts parts_;
};

/// A small tensor as fp32, whole. Throws as LinearRunner::run().
[[nodiscard]] std::vector<float> read_vector(const WeightSource& source, const SourceTensor& tensor,
                                             std::span<std::byte> scratch);
/// The same of one row of a matrix.
[[nodiscard]] std::vector<float> read_row(const WeightSource& source, const SourceTensor& tensor, std::int64_t row,
                                          std::span<std::byte> scratch);

}  // namespace halfquad
