#pragma once

#include <concepts>
#include <optional>
#include <utility>

namespace halfquad {

/// a * b, or nothing when the product does not fit T. For sizes read from untrusted headers.
template <std::integral T>
[[nodiscard]] constexpr std::optional<T> checked_mul(T a, T b) noexcept {
  T out{};
  if (__builtin_mul_overflow(a, b, &out)) return std::nullopt;
  return out;
}

/// a + b, or nothing when the sum does not fit T.
template <std::integral T>
[[nodiscard]] constexpr std::optional<T> checked_add(T a, T b) noexcept {
  T out{};
  if (__builtin_add_overflow(a, b, &out)) return std::nullopt;
  return out;
}

/// `value` as a To, or nothing when To cannot hold it.
template <std::integral To, std::integral From>
[[nodiscard]] constexpr std::optional<To> checked_cast(From value) noexcept {
  if (!std::in_range<To>(value)) return std::nullopt;
  return static_cast<To>(value);
}

/// ceil(a / b) for a >= 0, b > 0.
template <std::integral T>
[[nodiscard]] constexpr T ceil_div(T a, T b) noexcept {
  return a / b + (a % b != 0 ? 1 : 0);
}

/// `a` rounded up to a multiple of `b`.
template <std::integral T>
[[nodiscard]] constexpr T round_up(T a, T b) noexcept {
  return ceil_div(a, b) * b;
}

}  // namespace halfquad
