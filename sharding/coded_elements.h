#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace halfquad {

/// How a layer that is quantized already goes through a pipeline that reads weights: every weight is an element of four
/// bytes that holds its code, and the first elements of each group hold its scale and zero as well. Being element by
/// element it can be cut into tiles and ranges like any other tensor of F32.
///
/// Byte 0: the code. Bytes 1 to 3 of elements 0, 1 and 2 of a group: bytes 0 to 2, 3 to 5, 6 and 7 of scale and zero,
/// which are fp32. Little-endian, as all files.
struct CodedElement {
  std::uint8_t code = 0;
  std::array<std::uint8_t, 3> part{};
};
static_assert(sizeof(CodedElement) == sizeof(float));

/// Elements of a group that hold something of its grid, and so the least a group may have.
inline constexpr std::int64_t kCodedGridElements = 3;

/// Scale and zero of a group, spread over its first elements.
class CodedGrid {
 public:
  CodedGrid() = default;
  CodedGrid(float scale, float zero) noexcept {
    std::memcpy(bytes_.data(), &scale, sizeof scale);
    std::memcpy(bytes_.data() + sizeof scale, &zero, sizeof zero);
  }

  /// What element `k` of the group holds of it.
  [[nodiscard]] std::array<std::uint8_t, 3> part(std::int64_t k) const noexcept {
    std::array<std::uint8_t, 3> part{};
    if (k < kCodedGridElements) std::memcpy(part.data(), bytes_.data() + 3 * k, part.size());
    return part;
  }
  /// Takes what element `k` holds. @pre k < kCodedGridElements.
  void set_part(std::int64_t k, const std::array<std::uint8_t, 3>& part) noexcept {
    std::memcpy(bytes_.data() + 3 * k, part.data(), part.size());
  }

  [[nodiscard]] float scale() const noexcept { return at(0); }
  [[nodiscard]] float zero() const noexcept { return at(sizeof(float)); }

 private:
  [[nodiscard]] float at(std::size_t offset) const noexcept {
    float value = 0;
    std::memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }
  std::array<std::uint8_t, 9> bytes_{};  // the last is always 0
};

}  // namespace halfquad
