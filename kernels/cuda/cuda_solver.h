#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/device.h"

namespace halfquad::cuda {

/// Solves on one CUDA device, on one stream, within one piece of its memory.
class CudaSolver final : public DeviceSolver {
 public:
  struct Options {
    int device = 0;
    std::string name;  ///< Of the device.
    /// Device memory to ask for. When the device has less, half of it, and so on down to kLeastBytes.
    std::uint64_t memory_bytes = 0;
    FixedPointExit exit = FixedPointExit::kOn;
  };
  static constexpr std::uint64_t kLeastBytes = 8 << 20;

  /// Throws as DeviceModule::make_solver().
  explicit CudaSolver(Options options);
  ~CudaSolver() override;

  [[nodiscard]] std::string name() const override;
  [[nodiscard]] std::uint64_t memory_bytes() const noexcept override;
  std::vector<DeviceResult> solve(std::span<const DeviceTile> tiles) override;

  /// Device memory for tiles of so many weights, whatever their types.
  [[nodiscard]] static std::uint64_t wanted_bytes(std::int64_t tile_weights) noexcept;

 private:
  const Options options_;
  struct Resources;  // live and die with the device current
  std::unique_ptr<Resources> resources_;
};

}  // namespace halfquad::cuda
