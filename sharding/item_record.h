#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/level_grid.h"
#include "kernels/solver.h"
#include "sharding/wire.h"

namespace halfquad {

/// What was settled about a tensor from all its tiles, and then holds for each of them.
struct TensorDecision {
  int steps = 0;  ///< Steps whose zeros count (0 for rtn and per tensor).
  bool stopped_early = false;
  FixedGrid grid;                     ///< Per-tensor quantization.
  float tensor_scale = 1;             ///< Where the tensor has one.
  std::optional<Levels> levels = {};  ///< Where it has some of its own.
  /// One h for each column, where columns are weighed. Of a rank's records of a tensor only the first has it.
  std::shared_ptr<const std::vector<float>> importance = {};

  void write(WireWriter& out) const;
  static TensorDecision read(WireReader& in);
};

/// One checksum block of an output tensor, as it was written.
struct BlockSum {
  std::uint32_t entry = 0;  ///< Index into OutputLayout::entries().
  std::uint64_t block = 0;  ///< Number in the entry's BlockLayout.
  std::uint64_t hash = 0;
};

/// One finished item of a plan: what the journal keeps of it, and what the report needs.
struct ItemRecord {
  std::uint64_t item = 0;
  TensorDecision decision;
  ErrorSums error;
  std::int64_t zeroed = 0;  ///< Weights set to zero by NonFinite::kZero.
  double seconds = 0;       ///< Worker time.
  std::vector<BlockSum> blocks;

  void write(WireWriter& out) const;
  /// Throws kBadInput for bytes that are no record.
  static ItemRecord read(WireReader& in);
};

}  // namespace halfquad
