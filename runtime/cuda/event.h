#pragma once

#include <cuda_runtime_api.h>

#include "runtime/cuda/stream.h"

namespace halfquad::cuda {

/// A point in a stream's work. Belongs to the device that is current when it is made.
class Event {
 public:
  /// Throws kDevice.
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  /// From now on this stands for the end of all work that `stream` was given so far. Throws kDevice.
  void record(const Stream& stream) const;
  /// Whether that work is done; true before the first record(). Never waits. Throws kDevice when it failed.
  [[nodiscard]] bool reached() const;
  /// What `stream` is given from now on begins only after that work. Never waits. Throws kDevice.
  void hold_back(const Stream& stream) const;

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace halfquad::cuda
