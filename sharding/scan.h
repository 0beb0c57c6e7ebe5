#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "runtime/progress.h"
#include "runtime/stop_flag.h"
#include "sharding/tiles.h"

namespace halfquad {

/// The search of some tensors for NaN and infinity. Ranks divide it by blocks, so that their parts are equally large
/// and no byte is read by two of them.
class NonfiniteScan {
 public:
  struct Part {
    int index = 0, count = 1;
  };

  /// `tensors`: indices into checkpoint.tensors().
  NonfiniteScan(const Checkpoint& checkpoint, std::span<const std::size_t> tensors);

  /// The tensors that hold a NaN or an infinity in this part, ascending. Memory: 8 MiB a thread.
  [[nodiscard]] std::vector<std::size_t> find(FileSystem& fs, Part part, int threads, ReadMode mode,
                                              ProgressCounters& progress, const StopFlag& stop) const;

 private:
  struct Block {
    std::size_t tensor;
    ByteRange range;
  };
  [[nodiscard]] std::span<const Block> blocks_of(Part part) const noexcept;

  const Checkpoint& checkpoint_;
  std::vector<Block> blocks_;
};

}  // namespace halfquad
