#pragma once

#include <cstdint>

#include "kernels/quant_spec.h"

namespace halfquad {

/// The search for the scale and the whole zero of a group (QuantSpec::zeros): least squared error. The range is
/// extended to contain 0, for a symmetric zero to the same distance on both sides.
///
/// A candidate is a multiplier, which stands for 1/scale, and a zero z. Its codes are those of weights and multiplier
/// rounded to 16 bits: x = round(w · kLargest / length of the range), steps d = x · multiplier / 2^(15 + fraction
/// bits), rounded half up twice: to the fraction bits, then to whole steps; clamped to -z..qmax - z. So all that
/// decides between candidates is whole numbers, whose sums have no order:
///   A = sum x·d,  B = sum d²,  W = sum x²;  the scale that fits these codes best is A/B (in units of x), and the error
///   it leaves is o = (W·B - A²)/B, without another pass over the weights.
/// First parts of the range are tried, with zeros around their own: see zeros(). The best of these go on, so many as
/// kept(0). A round derives the codes of each again, with the multiplier for the scale that fits it best, and takes
/// them over when that lowers o; the next round goes on without the worst. The best in the end is taken if it is better
/// than round to nearest over the whole range: errors in fp32 decide, so no group ever gets worse than that. What
/// rounding to 16 bits does to o is far less than a round does: a step of 4 bits has 2000 units of x, one of 8 bits
/// 128.
class IntegerZeroSearch {
 public:
  static constexpr int kStarts = 5;
  static constexpr int kTried = 16;    ///< Room for candidates; their index takes the lowest bits of what sorts them.
  static constexpr int kMostKept = 7;  ///< No kept(0) is larger.
  static constexpr int kMostRounds = 4;
  static constexpr int kLargest = 32767;
  static constexpr int kChunk = 128;  ///< Weights whose sums stay below 2^31; those of chunks are added as doubles.
  static constexpr int kMostInSmall = 128;
  static constexpr float kNarrowest = 1e-9F;  ///< A range up to this counts as constant zero: scale 1.
  /// Added to a small number it leaves the nearest whole number in the low bits.
  static constexpr float kRounding = 12582912.0F;

  IntegerZeroSearch(const QuantSpec& spec, std::int64_t group_elems) noexcept;

  [[nodiscard]] bool symmetric() const noexcept { return symmetric_; }
  [[nodiscard]] int largest_code() const noexcept { return largest_code_; }
  /// Bits of a step's fraction before it is rounded: as many as leave the largest multiplier room to double.
  [[nodiscard]] int fraction_bits() const noexcept { return fraction_bits_; }
  /// The parts of the range to start from: each leaves a tenth more out than the one before; in groups of up to
  /// kMostInSmall weights, which pay for every one cut off, no more than one and a half steps of the whole range's.
  [[nodiscard]] float part(int index) const noexcept { return parts_[index]; }
  /// The multiplier to start a part with.
  [[nodiscard]] int multiplier(int part) const noexcept { return multipliers_[part]; }
  /// Rounds after the first look: QuantSpec::iters counts that too. None for kRtn, whose result is round to nearest.
  [[nodiscard]] int rounds() const noexcept { return rounds_; }
  /// Candidates in a round. Small groups have more local optima, and scales of few codes have far to go.
  [[nodiscard]] int kept(int round) const noexcept { return kept_ - round; }
  /// Zeros to try with a part: 3, its own rounded one and the two beside it; 1; or 0 where it cannot win. A part f cuts
  /// at least one weight off at each end, by (1 - f)/2 of the range, which has to be made up by the smaller errors of
  /// all. A symmetric zero is one for every part.
  [[nodiscard]] int zeros(int part) const noexcept { return zeros_[part]; }
  /// Whether anything is searched at all.
  [[nodiscard]] bool searches() const noexcept { return searches_; }
  /// The zero of every group for ZeroKind::kSymmetric; 0 otherwise.
  [[nodiscard]] int fixed_zero() const noexcept { return fixed_zero_; }

 private:
  bool symmetric_, searches_;
  int largest_code_, fraction_bits_, rounds_, kept_, fixed_zero_;
  float parts_[kStarts];
  int multipliers_[kStarts], zeros_[kStarts];
};

}  // namespace halfquad
