#pragma once

#include <array>
#include <cstdint>

namespace halfquad {

/// An exact sum of non-negative fp32 values: each is a multiple of 2^-149 and is added as an integer, so the result
/// depends on no order, tile border, thread or rank. Nine 64-bit counters of 32-bit digits.
class ExactSum {
 public:
  /// @pre finite and >= 0. At most 2^31 calls between two normalizations, which happen by themselves.
  void add(float value) noexcept;
  /// The same for a double that is an integer multiple of 2^-149, below 2^128, with 53 significant bits.
  void add(double value) noexcept;
  void add(const ExactSum& other) noexcept;

  /// sum / count: the sum rounded once to double, one division in double, one rounding to fp32.
  [[nodiscard]] float mean(std::int64_t count) const noexcept;
  /// The sum rounded once (to nearest even) to double.
  [[nodiscard]] double value() const noexcept;

  /// The digits, carried so that each is below 2^32 except the last: for journals and reductions between ranks.
  [[nodiscard]] std::array<std::uint64_t, 9> digits() const noexcept;
  /// The sum that has these digits().
  [[nodiscard]] static ExactSum from_digits(const std::array<std::uint64_t, 9>& digits) noexcept;
  friend bool operator==(const ExactSum& a, const ExactSum& b) noexcept { return a.digits() == b.digits(); }

 private:
  void carry() noexcept;
  std::array<std::uint64_t, 9> digits_{};
  std::uint32_t pending_ = 0;
};

/// `value`, or the largest float when it is infinite or NaN: what a group sum that overflowed counts as.
[[nodiscard]] float finite_or_max(float value) noexcept;

/// The rule of the tensor-wide early stop, fed with the tensor's mean |e| of each step in order.
class EarlyStop {
 public:
  /// Returns true when the solver stops after this step: `mean` is not smaller than the smallest so far (or NaN).
  bool stops(float mean) noexcept;

 private:
  float best_ = __builtin_inff();
};

}  // namespace halfquad
