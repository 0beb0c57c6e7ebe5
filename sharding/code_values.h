#pragma once

#include <cstdint>

namespace halfquad {

/// What codes stand for before zero and scale: themselves, or levels of a table.
class CodeValues {
 public:
  explicit CodeValues(const float* levels) noexcept : levels_(levels) {}
  [[nodiscard]] float operator()(std::uint8_t code) const noexcept {
    return levels_ == nullptr ? static_cast<float>(code) : levels_[code];
  }

 private:
  const float* levels_;
};

}  // namespace halfquad
