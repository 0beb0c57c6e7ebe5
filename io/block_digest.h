#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/byte_range.h"

namespace halfquad {

/// How a tensor's bytes are cut for checksums: equal runs of `run_bytes` (the last one may be shorter), each cut into
/// blocks of `block_bytes` (the last one of a run may be shorter). A tile writes whole blocks, so tiles may be hashed
/// and finished in any order by anyone.
struct BlockLayout {
  std::uint64_t total_bytes = 0;
  std::uint64_t run_bytes = 0;
  std::uint64_t block_bytes = 0;
  /// One block is the same part of every run: what a tile of a transposed tensor writes. All runs are then equal.
  bool across_runs = false;

  [[nodiscard]] std::uint64_t block_count() const noexcept;
  /// Bytes of the largest block.
  [[nodiscard]] std::uint64_t longest_block() const noexcept;
  /// Where block number `block` lies: one range, or one for each run. @pre block < block_count().
  [[nodiscard]] std::vector<ByteRange> ranges_of(std::uint64_t block) const;
  /// Index of the block that starts at `offset`. Throws kInternal when none does. @pre !across_runs, as for the next
  /// two.
  [[nodiscard]] std::uint64_t block_at(std::uint64_t offset) const;
  /// Where block number `block` starts: the inverse of block_at(). @pre block < block_count().
  [[nodiscard]] std::uint64_t offset_of(std::uint64_t block) const noexcept;
  /// Length of the block that starts at `offset`.
  [[nodiscard]] std::uint64_t block_length(std::uint64_t offset) const;
  friend bool operator==(const BlockLayout&, const BlockLayout&) = default;
};

/// Checksum of one tensor: XXH3-64 over the little-endian XXH3-64 values of its blocks in file order.
class BlockDigest {
 public:
  explicit BlockDigest(const BlockLayout& layout);

  /// `data` begins at `offset` inside the tensor and covers whole blocks (@pre !layout().across_runs). Safe from
  /// several threads for disjoint ranges.
  void add(std::uint64_t offset, std::span<const std::byte> data);
  /// Puts in what hash() gave for block number `block` (BlockLayout::block_at), somewhere else or in an earlier run.
  /// Safe from several threads for different blocks. Throws kInternal when there is no such block.
  void set(std::uint64_t block, std::uint64_t value);
  /// Checksum of one block's bytes.
  [[nodiscard]] static std::uint64_t hash(std::span<const std::byte> block) noexcept;
  /// The tensor's checksum, 16 hexadecimal digits. Throws kInternal while a block is missing.
  [[nodiscard]] std::string hex() const;
  [[nodiscard]] const BlockLayout& layout() const noexcept { return layout_; }

 private:
  BlockLayout layout_;
  std::vector<std::uint64_t> blocks_;
  std::vector<std::uint8_t> seen_;
};

}  // namespace halfquad
