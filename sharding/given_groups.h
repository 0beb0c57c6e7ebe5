#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/quant_spec.h"
#include "kernels/solver.h"

namespace halfquad {

/// The zero of every group for ZeroKind::kSymmetric.
[[nodiscard]] float symmetric_zero(CodeWidth width) noexcept;

/// Groups that are quantized already, taken out of coded elements.
struct GivenGroups {
  std::vector<std::uint8_t> codes;  ///< Laid out as the strides say that assign() was given.
  std::vector<float> weights;       ///< (q - z)·s, or level·s, laid out alike.
  std::vector<float> scale, zero;   ///< One for each group.
  bool finite = true;               ///< All of the above.

  /// `block`: of coded elements. Element k of group g goes to g * group_stride + k * element_stride. `levels`: what
  /// codes stand for, where they are numbers of levels.
  void assign(const GroupBlock& block, std::int64_t group_stride, std::int64_t element_stride,
              const float* levels = nullptr);

  /// The weights as a block with the same strides.
  [[nodiscard]] GroupBlock block() const noexcept;

  /// The zero with which group `group` keeps its scale and its weights in a format with `width` and `zeros`: its own,
  /// or the symmetric one if its codes can be shifted so far. Nothing when it has none.
  [[nodiscard]] std::optional<float> zero_for(std::int64_t group, CodeWidth width, ZeroKind zeros) const noexcept;

  /// Copies the codes of a group to `out`, which is laid out alike.
  void copy_codes(std::int64_t group, std::uint8_t* out) const noexcept;

 private:
  [[nodiscard]] std::size_t place(std::int64_t group, std::int64_t k) const noexcept {
    return static_cast<std::size_t>(group * group_stride_ + k * element_stride_);
  }
  std::int64_t groups_ = 0, group_elems_ = 0, group_stride_ = 0, element_stride_ = 1;
};

}  // namespace halfquad
