#pragma once

#include <cuda_runtime_api.h>

namespace halfquad::cuda {

/// Work of the current device that runs in order, beside that of other streams.
class Stream {
 public:
  /// Throws kDevice.
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  [[nodiscard]] cudaStream_t get() const noexcept { return stream_; }
  /// Waits for all work given so far. Throws kDevice when any of it failed.
  void synchronize() const;
  /// The same, where a failure is known or of no interest.
  void drain() const noexcept;

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace halfquad::cuda
