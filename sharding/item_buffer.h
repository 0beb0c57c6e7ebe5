#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "runtime/buffer_pool.h"
#include "sharding/coded_tile.h"
#include "sharding/open_checkpoint.h"
#include "sharding/output_layout.h"
#include "sharding/tile_solver.h"

namespace halfquad {

/// The one buffer a work item travels with: its source bytes, aligned for direct reads, and room for its output.
/// A single lease an item means that an item which has its buffer never waits for memory again.
class ItemBuffer {
 public:
  ItemBuffer() = default;
  /// Lays a tile of `tensor` out in `memory`. The codes get an address that is `codes_offset`, their offset in the
  /// output file, modulo the page size: what direct writes ask for.
  ItemBuffer(Buffer memory, const QuantizedTensor& tensor, std::int64_t tile, const SourceTensor& source, DType stored,
             std::uint64_t codes_offset);
  /// A block of a copied tensor.
  ItemBuffer(Buffer memory, ByteRange block);
  /// A block of a converted one, which read() converts.
  ItemBuffer(Buffer memory, const Conversion& conversion, const Conversion::Block& block, const SourceTensor& source);

  /// Bytes the two kinds of item need.
  [[nodiscard]] static std::uint64_t tile_bytes(const QuantizedTensor& tensor, std::int64_t tile,
                                                const SourceTensor& source, DType stored);
  [[nodiscard]] static std::uint64_t copy_bytes(std::uint64_t block_bytes) noexcept;
  [[nodiscard]] static std::uint64_t conversion_bytes(const Conversion& conversion, const Conversion::Block& block,
                                                      const SourceTensor& source) noexcept;

  /// What a tile is read as: weights, or what the checkpoint stores where a CodedTile holds it.
  enum class ReadAs : std::uint8_t { kWeights, kStored };
  /// Reads the item's ranges of `tensor` and returns how many bytes of weights, or of a copy, that were.
  std::uint64_t read(const OpenCheckpoint& files, const SourceTensor& tensor, ReadAs as = ReadAs::kWeights);

  /// The weights of a tile. One that was read as stored is decoded by the first call.
  [[nodiscard]] const TileSource& source();
  /// The tile as stored, in place of source(); null unless it was read so.
  [[nodiscard]] const CodedTile* coded() const noexcept { return coded_ ? &*coded_ : nullptr; }
  /// To be called after the weights in source() were changed: what is stored is not them any more.
  void forget_coded() noexcept { coded_.reset(); }
  [[nodiscard]] const TileOutput& output() const noexcept { return output_; }
  /// Source ranges in the tensor, in the order of source().slabs (by columns: the rows of its only block).
  [[nodiscard]] std::span<const ByteRange> ranges() const noexcept { return ranges_; }
  /// The bytes of a copied or converted block.
  [[nodiscard]] std::span<const std::byte> copied() const noexcept { return copied_; }
  /// Bytes of memory it leases.
  [[nodiscard]] std::uint64_t size() const noexcept { return memory_.bytes().size(); }
  void release() noexcept { memory_.reset(); }

 private:
  std::uint64_t read_decoded(const OpenCheckpoint& files, const SourceTensor& tensor, ReadAs as);

  Buffer memory_;
  std::vector<ByteRange> ranges_;
  std::vector<std::span<std::byte>> scratch_;  // where each range is read; by columns: one for all
  bool gather_rows_ = false;                   // by columns: rows are moved together after reading
  std::optional<CodedTile> coded_;             // in scratch_, once it is read
  bool decoded_ = true;                        // source_ is what coded_ stands for
  TileSource source_;
  TileOutput output_;
  std::span<std::byte> copied_;
  const Conversion* conversion_ = nullptr;
  Conversion::Block block_;
  std::span<float> weights_;  // of a converted block
};

}  // namespace halfquad
