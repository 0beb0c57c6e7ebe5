#include "sharding/tensor_state.h"

namespace halfquad {

void TensorState::decide(const QuantizedTensor& tensor) {
  decided = true;
  if (!tensor.spec.channel_wise) {
    grid = start_grid(range, tensor.spec.width, tensor.spec.round_zero);
    return;
  }
  EarlyStop stop;
  for (const ExactSum& sum : step_abs) {
    ++result.steps;
    if (stop.stops(sum.mean(tensor.rows * tensor.cols))) {
      result.stopped_early = true;
      break;
    }
  }
}

}  // namespace halfquad
