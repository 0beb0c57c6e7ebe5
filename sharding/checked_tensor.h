#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/block_digest.h"
#include "io/byte_range.h"
#include "io/checkpoint.h"

namespace halfquad {

/// What is wrong with a range of bytes: the first place, whoever finds it.
class FirstPlace {
 public:
  void add(std::uint64_t offset) {
    std::uint64_t seen = offset_;
    while (offset < seen && !offset_.compare_exchange_weak(seen, offset)) {
    }
  }
  [[nodiscard]] std::optional<std::uint64_t> offset() const {
    return offset_ == kNone ? std::nullopt : std::optional(offset_.load());
  }

 private:
  static constexpr std::uint64_t kNone = ~std::uint64_t{0};
  std::atomic<std::uint64_t> offset_{kNone};
};

/// One tensor of the output while its bytes are checked.
struct CheckedTensor {
  const SourceTensor* tensor = nullptr;
  BlockLayout blocks;
  std::optional<BlockDigest> digest;       ///< When the report has a checksum to compare with.
  std::string reported;                    ///< That checksum.
  const SourceTensor* original = nullptr;  ///< When the bytes must equal the source's.
  bool is_grid = false;                    ///< A scale or zero: must be finite.
  bool is_plain = false;                   ///< Of no quantized layer.
  FirstPlace difference;
  FirstPlace nonfinite;

  [[nodiscard]] bool to_read() const { return digest.has_value() || original != nullptr || is_grid; }
};

/// Whole checksum blocks of one tensor.
struct CheckedPiece {
  CheckedTensor* checked;
  std::vector<ByteRange> ranges;
  std::optional<std::uint64_t> block;  ///< The only one, where it goes across runs.

  [[nodiscard]] std::uint64_t bytes() const { return total_bytes(ranges); }
  /// Offset in the tensor of byte `at` of the piece.
  [[nodiscard]] std::uint64_t offset_of(std::uint64_t at) const {
    for (const ByteRange& range : ranges) {
      if (at < range.bytes) return range.offset + at;
      at -= range.bytes;
    }
    return ranges.back().offset + ranges.back().bytes;
  }
};

}  // namespace halfquad
