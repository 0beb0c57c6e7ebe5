#include "io/block_digest.h"

#include <algorithm>

#include <fmt/format.h>
#include <xxhash.h>

#include "runtime/check.h"
#include "runtime/checked.h"

namespace halfquad {

std::uint64_t BlockLayout::block_count() const noexcept {
  if (total_bytes == 0 || run_bytes == 0 || block_bytes == 0) return 0;
  if (across_runs) return ceil_div(run_bytes, block_bytes);
  return total_bytes / run_bytes * ceil_div(run_bytes, block_bytes) + ceil_div(total_bytes % run_bytes, block_bytes);
}

std::uint64_t BlockLayout::longest_block() const noexcept {
  if (block_count() == 0) return 0;
  const std::uint64_t in_run = std::min(block_bytes, run_bytes);
  return across_runs ? total_bytes / run_bytes * in_run : in_run;
}

std::vector<ByteRange> BlockLayout::ranges_of(std::uint64_t block) const {
  if (!across_runs) return {{offset_of(block), block_length(offset_of(block))}};
  std::vector<ByteRange> ranges;
  const std::uint64_t in_run = block * block_bytes;
  for (std::uint64_t run = 0; run < total_bytes; run += run_bytes) {
    ranges.push_back({run + in_run, std::min(block_bytes, run_bytes - in_run)});
  }
  return ranges;
}

std::uint64_t BlockLayout::block_at(std::uint64_t offset) const {
  const std::uint64_t in_run = run_bytes == 0 ? 0 : offset % run_bytes;
  HALFQUAD_REQUIRE(block_count() > 0 && offset < total_bytes && in_run % block_bytes == 0, kInternal,
                   fmt::format("no checksum block of {} bytes in runs of {} begins at offset {} of {}", block_bytes,
                               run_bytes, offset, total_bytes));
  return offset / run_bytes * ceil_div(run_bytes, block_bytes) + in_run / block_bytes;
}

std::uint64_t BlockLayout::offset_of(std::uint64_t block) const noexcept {
  const std::uint64_t blocks_per_run = ceil_div(run_bytes, block_bytes);
  return block / blocks_per_run * run_bytes + block % blocks_per_run * block_bytes;
}

std::uint64_t BlockLayout::block_length(std::uint64_t offset) const {
  static_cast<void>(block_at(offset));
  return std::min({block_bytes, run_bytes - offset % run_bytes, total_bytes - offset});
}

BlockDigest::BlockDigest(const BlockLayout& layout)
    : layout_(layout), blocks_(layout.block_count()), seen_(layout.block_count()) {
  HALFQUAD_REQUIRE(layout.total_bytes == 0 || !blocks_.empty(), kInternal,
                   "a checksum layout has runs or blocks of no bytes");
}

void BlockDigest::add(std::uint64_t offset, std::span<const std::byte> data) {
  while (!data.empty()) {
    const std::uint64_t index = layout_.block_at(offset);
    const std::uint64_t length = layout_.block_length(offset);
    HALFQUAD_REQUIRE(data.size() >= length, kInternal,
                     fmt::format("{} bytes at offset {} end inside a checksum block", data.size(), offset));
    set(index, hash(data.first(length)));
    offset += length;
    data = data.subspan(length);
  }
}

void BlockDigest::set(std::uint64_t block, std::uint64_t value) {
  HALFQUAD_REQUIRE(block < blocks_.size(), kInternal,
                   fmt::format("there is no checksum block {} among {}", block, blocks_.size()));
  blocks_[block] = value;
  seen_[block] = 1;
}

std::uint64_t BlockDigest::hash(std::span<const std::byte> block) noexcept {
  return XXH3_64bits(block.data(), block.size());
}

std::string BlockDigest::hex() const {
  const auto missing = std::find(seen_.begin(), seen_.end(), std::uint8_t{0});
  HALFQUAD_REQUIRE(missing == seen_.end(), kInternal,
                   fmt::format("checksum block {} was never written", missing - seen_.begin()));
  constexpr std::size_t kBytes = sizeof(std::uint64_t);
  std::vector<std::uint8_t> little_endian(blocks_.size() * kBytes);
  for (std::size_t i = 0; i < little_endian.size(); ++i) {
    little_endian[i] = static_cast<std::uint8_t>(blocks_[i / kBytes] >> (i % kBytes * 8));
  }
  return fmt::format("{:016x}", XXH3_64bits(little_endian.data(), little_endian.size()));
}

}  // namespace halfquad
