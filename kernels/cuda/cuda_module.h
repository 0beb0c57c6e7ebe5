#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/device.h"

namespace halfquad::cuda {

/// The CUDA devices of this process.
class CudaModule final : public DeviceModule {
 public:
  /// Needs no context on any device, so it cannot tell how much memory is free: free_bytes is all of it.
  [[nodiscard]] std::vector<DeviceInfo> devices() override;
  [[nodiscard]] std::unique_ptr<DeviceSolver> make_solver(int index, std::uint64_t memory_bytes) override;
  [[nodiscard]] std::unique_ptr<Gemm> make_gemm(int index) override;
  [[nodiscard]] bool lock_pages(int index, std::span<std::byte> memory) noexcept override;
  void unlock_pages(int index, std::span<std::byte> memory) noexcept override;
  [[nodiscard]] std::uint64_t wanted_bytes(std::int64_t tile_weights) const noexcept override;
  [[nodiscard]] std::vector<std::byte> link_identity(int index) override;
  [[nodiscard]] AcceptedLink accept_link(int index, std::span<const std::byte> identity) override;
  [[nodiscard]] std::unique_ptr<DeviceLink> join_link(int index, std::span<const std::byte> invitation) override;
  [[nodiscard]] std::string name() const override;
};

}  // namespace halfquad::cuda
