#pragma once

#include <cstdint>
#include <span>

namespace halfquad {

/// A range of a tensor's bytes.
struct ByteRange {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  friend bool operator==(const ByteRange&, const ByteRange&) = default;
};

/// Bytes of all `ranges` together.
[[nodiscard]] inline std::uint64_t total_bytes(std::span<const ByteRange> ranges) noexcept {
  std::uint64_t total = 0;
  for (const ByteRange& range : ranges) total += range.bytes;
  return total;
}

}  // namespace halfquad
