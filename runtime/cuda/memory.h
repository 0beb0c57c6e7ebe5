#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace halfquad::cuda {

/// Memory of the current device.
class DeviceBuffer {
 public:
  /// Throws kOutOfMemory or kDevice.
  explicit DeviceBuffer(std::uint64_t bytes);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&&) = delete;

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::uint64_t bytes_ = 0;
};

/// Page-locked memory of the host, for small things that go to a device or come from it. Grows, never shrinks.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  ~PinnedBuffer();
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;

  /// At least `bytes`; what was in it may be lost. Throws kOutOfMemory or kDevice.
  [[nodiscard]] std::byte* reserve(std::uint64_t bytes);

 private:
  std::byte* data_ = nullptr;
  std::uint64_t bytes_ = 0;
};

/// Keeps memory of the host in place for all devices. false when the system or the driver refuses.
[[nodiscard]] bool lock_pages(std::span<std::byte> memory) noexcept;
/// @pre lock_pages(memory) returned true.
void unlock_pages(std::span<std::byte> memory) noexcept;

}  // namespace halfquad::cuda
