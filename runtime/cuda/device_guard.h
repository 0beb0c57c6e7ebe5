#pragma once

namespace halfquad::cuda {

/// Makes a device this thread's current one, and the former one again at the end.
class [[nodiscard]] DeviceGuard {
 public:
  /// Throws kDevice.
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int former_ = 0;
};

}  // namespace halfquad::cuda
