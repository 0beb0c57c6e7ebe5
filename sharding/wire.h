#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "kernels/solver.h"
#include "runtime/check.h"

namespace halfquad {

/// Values as bytes, for messages between ranks and for the journal. All machines halfquad runs on are little-endian.
class WireWriter {
 public:
  template <class T>
  requires std::is_arithmetic_v<T> || std::is_enum_v<T>
  void put(T value) { append(&value, sizeof value); }
  void put(std::string_view text) {
    put(static_cast<std::uint64_t>(text.size()));
    append(text.data(), text.size());
  }
  void put(std::span<const std::byte> data) {
    put(static_cast<std::uint64_t>(data.size()));
    append(data.data(), data.size());
  }
  void put(const ExactSum& sum) {
    for (const std::uint64_t digit : sum.digits()) put(digit);
  }
  void put(const ErrorSums& sums) {
    put(sums.abs);
    put(sums.square);
    put(sums.weight2);
    put(sums.max_abs);
    put(sums.weighted_square);
    put(sums.weighted_weight2);
  }
  /// Spares the growing when much is to come.
  void reserve(std::size_t bytes) { bytes_.reserve(bytes); }
  [[nodiscard]] std::vector<std::byte> take() noexcept { return std::move(bytes_); }

 private:
  void append(const void* data, std::size_t size) {
    const std::size_t end = bytes_.size();
    bytes_.resize(end + size);
    if (size > 0) std::memcpy(bytes_.data() + end, data, size);
  }

  std::vector<std::byte> bytes_;
};

/// Reads what a WireWriter wrote. Throws kBadInput when bytes are missing.
class WireReader {
 public:
  explicit WireReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <class T>
  requires std::is_arithmetic_v<T> || std::is_enum_v<T>
  void get(T& value) { std::memcpy(&value, next(sizeof value).data(), sizeof value); }
  template <class T>
  [[nodiscard]] T get() {
    T value{};
    get(value);
    return value;
  }
  void get(std::string& text) {
    const auto bytes = next(get<std::uint64_t>());
    text.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  /// Bytes that stay where they are, in what this reads.
  [[nodiscard]] std::span<const std::byte> get_data() { return next(get<std::uint64_t>()); }
  void get(ExactSum& sum) {
    std::array<std::uint64_t, 9> digits{};
    for (std::uint64_t& digit : digits) get(digit);
    sum = ExactSum::from_digits(digits);
  }
  void get(ErrorSums& sums) {
    get(sums.abs);
    get(sums.square);
    get(sums.weight2);
    get(sums.max_abs);
    get(sums.weighted_square);
    get(sums.weighted_weight2);
  }
  /// A count of things that take at least `least_bytes` each: so that nothing is allocated for a count that lies.
  [[nodiscard]] std::size_t count(std::size_t least_bytes) {
    const auto value = get<std::uint64_t>();
    HALFQUAD_REQUIRE(value <= rest_.size() / least_bytes, kBadInput, "a record or message is cut off");
    return static_cast<std::size_t>(value);
  }
  [[nodiscard]] bool empty() const noexcept { return rest_.empty(); }

 private:
  std::span<const std::byte> next(std::uint64_t bytes) {
    HALFQUAD_REQUIRE(bytes <= rest_.size(), kBadInput, "a record or message is cut off");
    const auto taken = rest_.first(static_cast<std::size_t>(bytes));
    rest_ = rest_.subspan(static_cast<std::size_t>(bytes));
    return taken;
  }

  std::span<const std::byte> rest_;
};

}  // namespace halfquad
