#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace halfquad {

/// Counts of values in equal bins around 0 whose width, a power of two, follows from the largest value alone: whoever
/// counts the same values in any order, or in parts that are added, has the same counts.
class ValueHistogram {
 public:
  /// Bins on either side of 0.
  static constexpr std::int64_t kHalf = 2048;

  /// @pre Finite.
  void add(std::span<const float> values);
  void add(const ValueHistogram& other);

  [[nodiscard]] std::uint64_t total() const noexcept { return total_; }

  /// Some neighbouring bins made into one, for a chart.
  struct View {
    double low = 0, width = 0;           ///< Of the first bin.
    std::vector<std::uint64_t> counts;   ///< Of [low + i·width, low + (i + 1)·width).
    std::uint64_t below = 0, above = 0;  ///< Values outside of the bins.
    friend bool operator==(const View&, const View&) = default;
  };
  /// Log2 of the bin width for which at most `bins` bins on both sides together hold all but one in a thousand values.
  [[nodiscard]] int view_exponent(std::int64_t bins) const noexcept;
  /// Bins of width 2^exponent, as many on either side of 0 and `bins` in all. @pre exponent is at least that of this
  /// histogram's own bins, and bins is even.
  [[nodiscard]] View view(int exponent, std::int64_t bins) const;
  /// Log2 of the width of its bins.
  [[nodiscard]] int exponent() const noexcept { return exponent_; }

 private:
  static constexpr int kLeastExponent = -149;  // of the smallest fp32 number

  void widen(int exponent);

  int exponent_ = kLeastExponent;
  std::uint64_t total_ = 0;
  std::vector<std::uint64_t> counts_ = std::vector<std::uint64_t>(static_cast<std::size_t>(2 * kHalf));
};

/// How the weights of one layer are distributed.
struct LayerHistogram {
  std::string module;
  ValueHistogram quantized;                  ///< Of (q - z)·s.
  std::optional<ValueHistogram> original;    ///< Of the source's weights; a NaN or an infinity counts as 0.
  std::optional<ValueHistogram> difference;  ///< Of (q - z)·s less the source's weight.
};

}  // namespace halfquad
