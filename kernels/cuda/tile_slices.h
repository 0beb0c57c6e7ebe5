#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/solve_kernels.h"
#include "kernels/device.h"

namespace halfquad::cuda {

/// Device addresses of whatever a kernel reads begin at multiples of this.
inline constexpr std::uint64_t kAlignment = 256;

/// How the grids of a tile are found.
[[nodiscard]] Finder finder_of(const DeviceTile& tile) noexcept;

/// What a tile takes on a device. Tiles are cut along packed rows, or columns.
struct TileShape {
  std::int64_t units = 0;  ///< Packed rows, or columns.
  int slabs = 1;
  std::int64_t packed_rows = 0;                                        ///< Of the whole tile.
  std::uint64_t source_bytes = 0, stored_bytes = 0, packed_bytes = 0;  ///< Of one element.
  KernelChoice kernel;

  explicit TileShape(const DeviceTile& tile);

  /// Device memory of `count` units: at most this, alignment included.
  [[nodiscard]] std::uint64_t bytes_of(std::int64_t count) const noexcept;
  /// The most units that `bytes` hold; not negative.
  [[nodiscard]] std::int64_t units_in(std::uint64_t bytes) const noexcept;

 private:
  std::uint64_t fixed_ = 0, each_ = 0;
};

/// Units [begin, end) of a tile.
struct TileSlice {
  std::size_t tile = 0;
  std::int64_t begin = 0, end = 0;
  friend bool operator==(const TileSlice&, const TileSlice&) = default;
};

/// Divides tiles into rounds, each of which fits `bytes` of device memory. A tile that fits alone is not cut.
/// Throws kOutOfMemory when not even one unit of a tile fits.
[[nodiscard]] std::vector<std::vector<TileSlice>> plan_rounds(std::span<const DeviceTile> tiles, std::uint64_t bytes);

}  // namespace halfquad::cuda
