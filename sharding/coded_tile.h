#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "io/byte_range.h"
#include "io/checkpoint.h"
#include "kernels/fp8.h"
#include "sharding/open_checkpoint.h"
#include "sharding/output_layout.h"

namespace halfquad {

/// A tile of rows as the checkpoint stores it, where that is codes of one byte and their scales.
class CodedTile {
 public:
  /// One of the tile's source ranges.
  struct Run {
    MatrixRun elements;
    std::span<const std::byte> codes;
    std::span<const std::byte> scales;  ///< Whole lines of the grid, from that of the first element on.
  };

  /// Nothing for a tensor that lies otherwise, for tiles of columns, and where numbers of 32 bits do not count the
  /// tensor's elements.
  [[nodiscard]] static std::optional<CodedTile> of(const QuantizedTensor& tensor, std::int64_t tile,
                                                   const SourceTensor& source);

  /// Memory that read() fills.
  [[nodiscard]] std::uint64_t bytes() const noexcept;
  /// Reads all runs. `memory`: page-aligned, and as long as the object.
  void read(const OpenCheckpoint& files, std::span<std::byte> memory);
  /// The elements of all runs, one behind the other. @pre read().
  void decode(float* weights) const noexcept;

  [[nodiscard]] const ScaledCodes& layout() const noexcept { return layout_; }
  [[nodiscard]] std::span<const Run> runs() const noexcept { return runs_; }

 private:
  explicit CodedTile(const ScaledCodes& layout) : layout_(layout) {}
  [[nodiscard]] ByteRange codes_of(const Run& run) const noexcept;
  [[nodiscard]] ByteRange scales_of(const Run& run) const noexcept;

  ScaledCodes layout_;
  std::vector<Run> runs_;
};

}  // namespace halfquad
