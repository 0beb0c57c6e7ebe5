#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "runtime/dtype.h"

namespace halfquad::simd {

/// Consecutive columns of one row and the sums they go to.
struct ColumnRun {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;             ///< F32, F16 or BF16.
  const std::int32_t* window = nullptr;  ///< window_from() of each column.
  double* abs = nullptr;
  double* square = nullptr;
  std::size_t count = 0;
};

/// Factor between the ends of a window.
inline constexpr int kWindowOctaves = 12;

/// |w| cut to 10 significant bits; infinite or NaN where w is.
[[nodiscard]] inline float column_magnitude(float w) noexcept {
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(w) & 0x7FFF'C000U);
}

/// A window that begins at `low`, a power of two: what to subtract from the bits of a magnitude, so that as signed
/// integers those in the window are the smallest.
[[nodiscard]] inline std::int32_t window_from(float low) noexcept {
  return std::bit_cast<std::int32_t>(std::bit_cast<std::uint32_t>(low) ^ 0x8000'0000U);
}

/// A window that nothing lies in.
inline constexpr std::int32_t kNoWindow = 0x3F80'0000;

[[nodiscard]] inline bool in_window(float magnitude, std::int32_t window) noexcept {
  const std::uint32_t above = std::bit_cast<std::uint32_t>(magnitude) - static_cast<std::uint32_t>(window);
  return std::bit_cast<std::int32_t>(above) < INT32_MIN + (kWindowOctaves << 23);
}

/// Adds the magnitudes in their column's window, and their squares. Returns how many are not in it and not zero;
/// `outside` gets their places in the run, for which it has room for `run.count`.
std::size_t add_columns(const ColumnRun& run, std::uint32_t* outside) noexcept;

}  // namespace halfquad::simd
