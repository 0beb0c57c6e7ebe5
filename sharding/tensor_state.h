#pragma once

#include <cstdint>
#include <vector>

#include "kernels/solver.h"
#include "sharding/hqq_layout.h"
#include "sharding/item_buffer.h"
#include "sharding/runner.h"

namespace halfquad {

/// An item on its way through the pipeline.
struct Unit {
  enum class Phase : std::uint8_t {
    kCopy,    ///< Bytes go out as they came.
    kFirst,   ///< A tile before its tensor is decided: solved with all steps, or (per tensor) only its range taken.
    kFinish,  ///< A tile that was held in memory until its tensor was decided.
    kAgain,   ///< A tile that was given up for memory, read again after its tensor was decided.
    kAhead,   ///< A tile given up for memory, to be written as if its tensor would not stop early.
  };
  Phase phase = Phase::kCopy;
  std::size_t item = 0;  ///< Index into Plan::items.
  ItemBuffer buffer;
  std::vector<StripResult> strips;
};

/// What is known of a quantized tensor while its tiles are in flight. Guarded by the pipeline's mutex.
///
/// Two kinds of tensor cannot be written tile by tile, since something is known only when the last tile was seen: hqq's
/// early stop (a step at which the tensor's mean error no longer falls) and per-tensor quantization (the range). Their
/// tiles are held after the first pass while memory lasts; deciding the tensor then costs only the strips whose zeros
/// still moved after the stop step. A tile that is given up for memory is written ahead, as if all steps counted, and
/// is read again only if the stop step changes it.
struct TensorState {
  std::int64_t first_passes_open = 0;  ///< Tiles whose first pass is not done.
  std::size_t last_item = 0;           ///< Plan position of its last tile.
  bool decided = false;
  std::vector<ExactSum> step_abs;
  WeightRange range;
  FixedGrid grid;
  std::vector<Unit> held;
  struct GivenUp {
    std::size_t item = 0;
    int settled = 0;  ///< Steps after which nothing of it changes.
    ErrorSums error;
  };
  std::vector<GivenUp> given_up;
  std::int64_t writes_ahead = 0;  ///< Of given_up: on their way to the file.
  TensorResult result;

  /// Whether tiles wait for a decision.
  [[nodiscard]] static bool waits(const QuantSpec& spec) noexcept { return spec.optimizes() || !spec.channel_wise; }

  /// Sets stop step or grid from what the first passes added up. @pre first_passes_open == 0.
  void decide(const QuantizedTensor& tensor);
};

}  // namespace halfquad
