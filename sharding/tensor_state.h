#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/solver.h"
#include "sharding/decision_board.h"
#include "sharding/item_buffer.h"
#include "sharding/item_record.h"
#include "sharding/output_layout.h"

namespace halfquad {

/// An item on its way through the pipeline.
struct Unit {
  enum class Phase : std::uint8_t {
    kCopy,    ///< Bytes go out as they came.
    kFirst,   ///< A tile before its tensor is decided: solved with all steps, or (per tensor) only its range taken.
    kFinish,  ///< A tile that was held in memory until its tensor was decided.
    kAgain,   ///< A tile of a decided tensor: given up for memory and read again, or left over by an earlier run.
    kAhead,   ///< A tile given up for memory, to be written as if its tensor would not stop early.
  };
  Phase phase = Phase::kCopy;
  std::size_t item = 0;  ///< Index into Plan::items.
  ItemBuffer buffer;
  std::vector<StripResult> strips;
  ItemRecord record;  ///< Of what was done with it so far.
};

/// What one pipeline knows of a quantized tensor while its tiles are in flight. Guarded by the pipeline's mutex.
///
/// Five kinds of tensor cannot be written tile by tile, since something is known only when the last tile was seen:
/// hqq's early stop (a step at which the tensor's mean error no longer falls), per-tensor quantization (the range),
/// scales over one of the tensor's (the range, of several tensors where they share it), levels that are fitted to the
/// tensor (how its weights are distributed), and solvers that weigh columns (what all of a column's weights are like).
/// Their tiles are held after the first pass while memory lasts; deciding
/// the tensor then costs only the strips whose zeros still moved after the stop step. A tile that is given up for
/// memory is written ahead, as if all steps counted, and is read again only if the stop step changes it; the other
/// kinds have nothing to write yet.
struct TensorState {
  std::int64_t first_passes_open = 0;  ///< Of the tiles this pipeline was given: first pass not done.
  std::int64_t tiles_read = 0;         ///< Of these: with memory, or done. All of them: it is decided without any more.
  FirstPasses passes;                  ///< First passes done and not yet told.
  bool importance_told = false;        ///< A finished record has it.
  bool undecided = false;              ///< Tiles of it wait for a decision, or for what follows from it.
  std::optional<TensorDecision> decision;
  std::vector<Unit> held;
  struct GivenUp {
    std::size_t item = 0;
    int settled = 0;  ///< Steps after which nothing of it changes.
    ItemRecord record;
  };
  std::vector<GivenUp> given_up;
  std::int64_t writes_ahead = 0;  ///< Of given_up: on their way to the file.

  /// Whether tiles wait for a decision.
  [[nodiscard]] static bool waits(const QuantizedTensor& tensor) noexcept {
    return tensor.optimizes() || tensor.wants_whole();
  }
};

}  // namespace halfquad
