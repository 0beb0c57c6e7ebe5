#include "kernels/exact_sum.h"

#include <bit>
#include <cmath>
#include <cstddef>
#include <limits>

namespace halfquad {
namespace {

constexpr std::uint64_t kDigitMask = 0xFFFF'FFFF;
constexpr int kDigitBits = 32;
constexpr std::uint32_t kMaxPending = std::uint32_t{1} << 31U;

/// The integer of `digits`, rounded once to the nearest double, ties to even.
double to_double(const std::array<std::uint64_t, 9>& digits) noexcept {
  std::array<std::uint64_t, 10> d{};  // every one below 2^32
  for (std::size_t i = 0; i < 8; ++i) d[i] = digits[i];
  d[8] = digits[8] & kDigitMask;
  d[9] = digits[8] >> kDigitBits;
  std::size_t top = d.size();
  while (top > 0 && d[top - 1] == 0) --top;
  if (top <= 2) return static_cast<double>((d[1] << kDigitBits) | d[0]);

  // 64 leading bits, with everything below them folded into the last one: enough for one correct rounding to 53.
  const int lead = std::countl_zero(static_cast<std::uint32_t>(d[top - 1]));
  std::uint64_t head = (d[top - 1] << kDigitBits) | d[top - 2];
  std::uint64_t rest = d[top - 3] << kDigitBits;
  if (lead > 0) {
    head = (head << lead) | (rest >> (64 - lead));
    rest <<= lead;
  }
  for (std::size_t i = 0; i + 3 < top; ++i) rest |= d[i];
  if (rest != 0) head |= 1;
  return std::ldexp(static_cast<double>(head), static_cast<int>(top - 2) * kDigitBits - lead);
}

}  // namespace

ExactSum ExactSum::from_digits(const std::array<std::uint64_t, 9>& digits) noexcept {
  ExactSum sum;
  sum.digits_ = digits;
  sum.pending_ = 1;
  return sum;
}

void ExactSum::add(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t exponent = bits >> 23U;
  const std::uint64_t fraction = bits & 0x7F'FFFFU;
  const std::uint32_t shift = exponent == 0 ? 0 : exponent - 1;
  const std::uint64_t mantissa = exponent == 0 ? fraction : fraction | 0x80'0000U;
  const std::uint64_t spread = mantissa << (shift % kDigitBits);
  const std::size_t at = shift / kDigitBits;
  digits_[at] += spread & kDigitMask;
  digits_[at + 1] += spread >> kDigitBits;
  if (++pending_ >= kMaxPending) carry();
}

void ExactSum::add(double value) noexcept {
  if (value == 0) return;
  const auto bits = std::bit_cast<std::uint64_t>(value);
  constexpr std::uint64_t kFraction = (std::uint64_t{1} << 52U) - 1;
  std::uint64_t mantissa = (bits & kFraction) | (kFraction + 1);
  int shift = static_cast<int>(bits >> 52U) - 1075 + 149;
  if (shift < 0) {  // the bits that fall off are zeros by the precondition
    mantissa >>= -shift;
    shift = 0;
  }
  const auto offset = static_cast<unsigned>(shift % kDigitBits);
  const auto at = static_cast<std::size_t>(shift / kDigitBits);
  const std::uint64_t low = (mantissa & kDigitMask) << offset;
  const std::uint64_t high = (mantissa >> kDigitBits) << offset;
  digits_[at] += low & kDigitMask;
  digits_[at + 1] += (low >> kDigitBits) + (high & kDigitMask);
  if ((high >> kDigitBits) != 0) digits_[at + 2] += high >> kDigitBits;
  pending_ += 2;  // a digit grew by up to twice 2^32
  if (pending_ >= kMaxPending - 2) carry();
}

void ExactSum::add(const ExactSum& other) noexcept {
  const std::array<std::uint64_t, 9> theirs = other.digits();
  carry();
  for (std::size_t i = 0; i < digits_.size(); ++i) digits_[i] += theirs[i];
  pending_ = 1;
}

void ExactSum::carry() noexcept {
  for (std::size_t i = 0; i + 1 < digits_.size(); ++i) {
    digits_[i + 1] += digits_[i] >> kDigitBits;
    digits_[i] &= kDigitMask;
  }
  pending_ = 0;
}

std::array<std::uint64_t, 9> ExactSum::digits() const noexcept {
  ExactSum copy = *this;
  copy.carry();
  return copy.digits_;
}

double ExactSum::value() const noexcept { return to_double(digits()) * 0x1p-149; }

float ExactSum::mean(std::int64_t count) const noexcept {
  return static_cast<float>(to_double(digits()) / static_cast<double>(count) * 0x1p-149);
}

float finite_or_max(float value) noexcept { return std::isfinite(value) ? value : std::numeric_limits<float>::max(); }

bool EarlyStop::stops(float mean) noexcept {
  if (!(mean < best_)) return true;
  best_ = mean;
  return false;
}

}  // namespace halfquad
