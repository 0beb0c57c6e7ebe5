#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cuda/solve_kernels.h"
#include "kernels/cuda/tile_slices.h"
#include "kernels/device.h"
#include "runtime/cuda/memory.h"
#include "runtime/cuda/stream.h"

namespace halfquad::cuda {

/// What a batch works with. `memory` is the device's.
struct BatchPlace {
  std::byte* memory = nullptr;
  std::uint64_t bytes = 0;
  PinnedBuffer* pinned = nullptr;
  cudaStream_t stream = nullptr;
  FixedPointExit exit = FixedPointExit::kOn;
};

/// Tiles solved together: their sums stay on the device until the last is done, their data passes through in rounds.
class Batch {
 public:
  /// The most tiles, from the first on, whose sums leave most of the memory to their data; at least one.
  [[nodiscard]] static std::size_t most_tiles(std::span<const DeviceTile> tiles, std::uint64_t bytes);

  /// Lays everything out. Throws kOutOfMemory.
  Batch(std::span<const DeviceTile> tiles, const BatchPlace& place);

  /// Gives all work to the stream. Throws; the stream may then still use the tiles' memory.
  void enqueue() const;
  /// @pre the stream was synchronized since.
  [[nodiscard]] std::vector<DeviceResult> results() const;

 private:
  /// A slice of a tile on its way, and where it is on the device.
  struct Placed {
    TileSlice slice;
    Part part;
    std::size_t first_run = 0;  ///< Of those in the launch; one for each slab that has rows, where tiles are coded.
  };
  /// Parts solved by one launch.
  struct Launch {
    std::size_t like = 0;  ///< A tile whose spec and types they all have.
    KernelChoice kernel;
    SolveLaunch launch;
    DecodeLaunch decode{};        ///< Of weights that are coded; no blocks where none are.
    std::uint64_t tables_at = 0;  ///< Of the parts, in the pinned memory; the runs to be decoded follow.
    std::vector<Placed> parts = {};
    std::vector<CodedRun> runs = {};
    [[nodiscard]] std::uint64_t table_bytes() const noexcept {
      return parts.size() * sizeof(Part) + runs.size() * sizeof(CodedRun);
    }
  };
  using Round = std::vector<Launch>;

  void place_tables();
  [[nodiscard]] Round place_round(std::span<const TileSlice> slices, std::uint64_t& pinned_at);
  [[nodiscard]] Launch& launch_for(Round& round, std::size_t tile) const;
  [[nodiscard]] SolveLaunch describe(std::size_t tile) const;
  [[nodiscard]] Part place_part(const TileSlice& slice, std::uint64_t& at) const;
  void place_runs(const Placed& placed, Launch& launch, std::uint64_t& at) const;
  void write_tables() const;
  void write_table(std::size_t tile) const;
  void copy_in(const Launch& launch, const Placed& placed) const;
  void copy_codes(const Launch& launch, const Placed& placed) const;
  void copy_out(const Placed& placed) const;

  std::span<const DeviceTile> tiles_;
  BatchPlace place_;
  // The device's memory begins with the sums of all tiles, then come the tables of each: steps, or starts and the
  // importance of columns, and the scales of coded weights. The pinned memory likewise.
  std::uint64_t sums_bytes_ = 0, tables_bytes_ = 0;
  std::vector<std::uint64_t> sums_at_, table_at_;  // of each tile
  std::vector<Round> rounds_;
  std::byte* pinned_ = nullptr;
};

}  // namespace halfquad::cuda
