#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace halfquad {

/// Bytes of one output tensor, and where they belong in it.
struct OutputPiece {
  std::size_t entry = 0;  ///< Index into OutputLayout::entries().
  std::uint64_t offset = 0;
  std::span<const std::byte> data;
};

}  // namespace halfquad
