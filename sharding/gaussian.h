#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/dtype.h"

namespace halfquad {

/// Quantile of the standard normal distribution, 0 < p < 1, with a relative error below 2e-9. Made of + - * / and sqrt
/// alone, so that every machine computes the same bits.
[[nodiscard]] double normal_quantile(double p) noexcept;

/// Seeded Gaussian numbers addressed by position: any part of any stream can be made by anyone, at memory speed. A
/// value is one of 65536 quantiles, stored in `dtype` after one rounding.
class GaussianSource {
 public:
  /// @pre dtype is F32, F16 or BF16.
  GaussianSource(std::uint64_t seed, DType dtype, float mean, float deviation);

  /// Elements [first, first + out.size() / element bytes) of the stream called `name`. Thread-safe.
  /// @pre first is a multiple of 4, `out` aligned for the dtype and a whole number of elements.
  void fill(std::string_view name, std::uint64_t first, std::span<std::byte> out) const;

 private:
  std::uint64_t seed_;
  DType dtype_;
  std::vector<std::uint32_t> wide_;    // F32: the bits of each quantile
  std::vector<std::uint16_t> narrow_;  // F16, BF16
};

}  // namespace halfquad
