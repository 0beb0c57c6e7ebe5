#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "io/file_system.h"

namespace halfquad {

/// Reads a file front to back in pieces, for headers whose length only their content tells.
class GgufCursor {
 public:
  explicit GgufCursor(ReadFile& file) : file_(file), size_(file.size()) {}

  [[nodiscard]] std::uint64_t position() const noexcept { return begin_ + used_; }
  [[nodiscard]] std::uint64_t remaining() const noexcept { return size_ - position(); }

  /// The next `bytes` bytes, valid until the next call.
  /// @pre bytes <= remaining()
  std::string_view take(std::size_t bytes);

 private:
  ReadFile& file_;
  std::uint64_t size_;
  std::uint64_t begin_ = 0;  ///< Where `window_` begins in the file.
  std::size_t used_ = 0;     ///< Bytes of `window_` already taken.
  std::string window_;
};

}  // namespace halfquad
