#pragma once

#include <cstddef>
#include <span>

namespace halfquad {

/// Keeps host memory in place so that devices can read and write it by themselves.
class PageLock {
 public:
  virtual ~PageLock() = default;
  /// false when the system or the driver refuses: the memory is as good as before, transfers are slower.
  [[nodiscard]] virtual bool lock(std::span<std::byte> memory) noexcept = 0;
  /// @pre lock(memory) returned true.
  virtual void unlock(std::span<std::byte> memory) noexcept = 0;
};

}  // namespace halfquad
