#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "kernels/solver.h"
#include "runtime/buffer_pool.h"
#include "runtime/error.h"
#include "sharding/open_checkpoint.h"
#include "sharding/quantized_model.h"
#include "sharding/stored_grid.h"
#include "sharding/tiles.h"

namespace halfquad {

/// Cuts one worker's buffer into page-aligned parts.
class Workspace {
 public:
  explicit Workspace(std::span<std::byte> bytes) : rest_(bytes) {}
  [[nodiscard]] std::span<std::byte> take(std::uint64_t bytes);
  /// What take(bytes) uses up.
  [[nodiscard]] static std::uint64_t cost(std::uint64_t bytes) noexcept;

 private:
  std::span<std::byte> rest_;
};

/// One buffer of `bytes` for each of at most `threads` workers, as many as `budget` holds. Throws kOutOfMemory when it
/// holds none.
class WorkerBuffers {
 public:
  WorkerBuffers(int threads, std::uint64_t bytes, std::uint64_t budget);
  [[nodiscard]] int workers() const noexcept { return static_cast<int>(buffers_.size()); }
  [[nodiscard]] std::span<std::byte> of(int worker) const { return buffers_[static_cast<std::size_t>(worker)].bytes(); }

 private:
  BufferPool pool_;
  std::vector<Buffer> buffers_;
};

/// The unpacked codes, scales and zeros of one tile. Elements lie in the order of the tile's source ranges, back to
/// back: group g's element k at `g * group_stride + k * element_stride`. Per-tensor quantization shows as rows that
/// share their scale.
struct StoredTile {
  std::int64_t groups = 0, group_elems = 0;
  std::int64_t group_stride = 0, element_stride = 1;
  const std::uint8_t* codes = nullptr;
  const float* scale = nullptr;
  const float* zero = nullptr;
  const float* levels = nullptr;  ///< The layer's, where codes are numbers of levels.

  [[nodiscard]] GivenCodes given() const noexcept { return {codes, scale, zero, levels}; }
  [[nodiscard]] std::int64_t elements() const noexcept { return groups * group_elems; }
};

/// Reads tiles of quantized layers back. One object per worker.
class StoredTileReader {
 public:
  /// Bytes of workspace that tiles of `layer` need.
  [[nodiscard]] static std::uint64_t workspace_bytes(const StoredLayer& layer);

  /// Bytes that loading all tiles of `layer` reads.
  [[nodiscard]] static std::uint64_t layer_bytes(const QuantizedModel& output, const StoredLayer& layer);

  /// `workspace` must hold workspace_bytes() of every layer that is loaded.
  StoredTileReader(const QuantizedModel& output, const OpenCheckpoint& files, std::span<std::byte> workspace)
      : output_(output), files_(files), workspace_(workspace) {}

  /// What it returns points into the workspace, or this object, and holds until the next call.
  [[nodiscard]] StoredTile load(const StoredLayer& layer, std::int64_t tile);
  /// By all load() so far.
  [[nodiscard]] std::uint64_t bytes_read() const noexcept { return bytes_read_; }

 private:
  [[nodiscard]] StoredTile load_rows(const StoredLayer& layer, std::int64_t tile);

  const QuantizedModel& output_;
  StoredGrid grid_;  // of whole rows
  const OpenCheckpoint& files_;
  std::span<std::byte> workspace_;
  std::uint64_t bytes_read_ = 0;
};

}  // namespace halfquad
