#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/exact_sum.h"
#include "kernels/quant_spec.h"
#include "runtime/dtype.h"

namespace halfquad {

/// Grids whose codes are numbers of levels: the weight is levels[code]·s. Levels ascend.
inline constexpr std::size_t kMostLevels = 16;
/// A table, with zeros behind its last level: whatever four bits hold is a place in it.
using Levels = std::array<float, kMostLevels>;

inline constexpr std::array kLevelGrids = {FloatGrid::kFp4, FloatGrid::kFp3E2M0,  FloatGrid::kFp3E1M1,
                                           FloatGrid::kNf4, FloatGrid::kLearned4, FloatGrid::kLearned3};

/// Levels of a grid: 15 (E2M1 has one zero), 7, 7, 16, 16, 8; 0 for grids without.
[[nodiscard]] int level_count(FloatGrid grid) noexcept;
/// The bits that these fit in.
[[nodiscard]] CodeWidth level_width(FloatGrid grid) noexcept;
/// Null for grids without levels and for those that are fitted to each tensor.
[[nodiscard]] const Levels* fixed_levels(FloatGrid grid) noexcept;
/// What the largest magnitude of a group is divided by for the scale that a search begins with: the largest level;
/// 1 for levels that were fitted to weights so divided.
[[nodiscard]] float level_unit(FloatGrid grid) noexcept;

/// The number, below `count`, of the level that is nearest to x, the lower one of two that are equally near: as many as
/// there are middles between neighbours that x is above.
[[nodiscard]] int nearest_level(const Levels& levels, int count, float x) noexcept;
/// The middle between levels `i` and `i + 1`, rounded to fp32.
[[nodiscard]] constexpr float level_middle(const Levels& levels, std::size_t i) noexcept {
  return levels[i] * 0.5F + levels[i + 1] * 0.5F;
}

/// `scale` >= 0 as it is stored beside levels: rounded to `stored` once, but never to 0.
[[nodiscard]] float stored_level_scale(DType stored, float scale) noexcept;

/// How the weights of a tensor, over the largest magnitudes of their groups, lie between -1 and 1, each counting by its
/// column's importance times the square of that magnitude: so much is the error of a level there. The sums are exact,
/// so neither tiles, their order, threads nor ranks change them.
class LevelHistogram {
 public:
  static constexpr std::size_t kBins = 1024;
  static constexpr std::size_t kDigits = 9;  ///< Numbers of digits() for each bin.

  LevelHistogram() : bins_(kBins) {}

  /// Adds finite `weights`, groups of `group_elems` one after the other; `importance`: one for each of as many columns
  /// as it has numbers, the first weight being in column 0; empty: all count the same. @pre whole rows.
  void add(std::span<const float> weights, std::int64_t group_elems, std::span<const float> importance);
  void add(const LevelHistogram& other);

  /// The `count` <= kMostLevels levels with the least sum of squared distances to what was added, the best there are
  /// (dynamic programming over the bins). If fewer places have weights, the last of these fill the rest.
  [[nodiscard]] Levels fit(int count) const;

  /// What another rank can add: kDigits numbers a bin.
  [[nodiscard]] std::vector<std::uint64_t> digits() const;
  /// @pre digits() of another one.
  [[nodiscard]] static LevelHistogram from_digits(std::span<const std::uint64_t> digits);

 private:
  std::vector<ExactSum> bins_;
};

}  // namespace halfquad
