#pragma once

#include <algorithm>

#include "kernels/quant_spec.h"

namespace halfquad {

/// The search for the scale and the whole zero of a group (QuantSpec::zeros). Its range is extended to contain 0, for a
/// symmetric zero to the same distance on both sides. From each of these parts of the range, and for each zero tried,
/// rounds of "derive the codes, score them, fit the scale to them" follow; the pair with the smallest sum of squared
/// errors is kept, of equal ones the earlier. The first part is the whole range: no group gets worse than round to
/// nearest.
struct IntegerZeroSearch {
  static constexpr float kParts[] = {1.0F, 0.9F, 0.8F, 0.7F, 0.6F};
  static constexpr int kMostRounds = 5;
  static constexpr float kNarrowest = 1e-9F;  ///< A range up to this counts as constant zero: scale 1.

  /// Rounds for each start; none for kRtn, whose result is the whole range's start with its rounded zero.
  [[nodiscard]] static int rounds(const QuantSpec& spec) noexcept {
    return spec.solver == SolverKind::kRtn ? 0 : std::min(spec.iters, kMostRounds);
  }
  /// The zero of every group for ZeroKind::kSymmetric.
  [[nodiscard]] static float symmetric_zero(CodeWidth width) noexcept {
    return static_cast<float>((qmax(width) + 1) / 2);
  }
};

}  // namespace halfquad
