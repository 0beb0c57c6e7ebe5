#include "sharding/item_buffer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "runtime/check.h"
#include "runtime/checked.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kPage = BufferPool::kAlignment;

std::uint64_t scratch_bytes(std::uint64_t bytes) { return round_up(bytes + ReadFile::kSlack, kPage); }

std::uint64_t source_bytes(const TileGeometry& tiles, std::span<const ByteRange> ranges) {
  if (tiles.by_columns()) return round_up(total_bytes(ranges), kPage) + scratch_bytes(ranges.front().bytes);
  std::uint64_t bytes = 0;
  for (const ByteRange& range : ranges) bytes += scratch_bytes(range.bytes);
  return bytes;
}

// Buffers of many sizes would keep the pool from reusing freed ones.
std::uint64_t rounded(std::uint64_t bytes) {
  return round_up(bytes, bytes > (1 << 20) ? std::uint64_t{1} << 20 : kPage);
}

struct OutputSizes {
  std::uint64_t codes = 0, scale = 0;
};

OutputSizes output_sizes(const TileGeometry& tiles, std::int64_t tile, DType stored) {
  return {round_up(total_bytes(tiles.code_ranges(tile)), std::uint64_t{64}),
          round_up(total_bytes(tiles.scale_ranges(tile, bytes_of(stored))), std::uint64_t{64})};
}

}  // namespace

std::uint64_t ItemBuffer::tile_bytes(const QuantizedTensor& tensor, std::int64_t tile, DType source, DType stored) {
  const OutputSizes sizes = output_sizes(tensor.tiles, tile, stored);
  const std::vector<ByteRange> ranges = tensor.tiles.source_ranges(tile, bytes_of(source));
  return rounded(source_bytes(tensor.tiles, ranges) + sizes.codes + kPage + 2 * sizes.scale);
}

std::uint64_t ItemBuffer::copy_bytes(std::uint64_t block_bytes) noexcept { return rounded(scratch_bytes(block_bytes)); }

ItemBuffer::ItemBuffer(Buffer memory, ByteRange block) : memory_(std::move(memory)), ranges_{block} {
  scratch_.push_back(memory_.bytes());
}

ItemBuffer::ItemBuffer(Buffer memory, const QuantizedTensor& tensor, std::int64_t tile, DType source, DType stored,
                       std::uint64_t codes_offset)
    : memory_(std::move(memory)), ranges_(tensor.tiles.source_ranges(tile, bytes_of(source))) {
  std::span<std::byte> rest = memory_.bytes();
  const auto take = [&rest](std::uint64_t bytes) {
    HALFQUAD_REQUIRE(bytes <= rest.size(), kInternal, "an item's buffer is too small for it");
    const std::span<std::byte> part = rest.first(bytes);
    rest = rest.subspan(bytes);
    return part;
  };
  const TileGeometry& tiles = tensor.tiles;
  source_.dtype = source;
  gather_rows_ = tiles.by_columns();
  if (gather_rows_) {
    source_.slabs.push_back(take(round_up(total_bytes(ranges_), kPage)).data());
    scratch_.push_back(take(scratch_bytes(ranges_.front().bytes)));
  } else {
    for (const ByteRange& range : ranges_) scratch_.push_back(take(scratch_bytes(range.bytes)));
    source_.slabs.assign(static_cast<std::size_t>(slabs_of(tiles.packing())), nullptr);
  }
  const OutputSizes sizes = output_sizes(tiles, tile, stored);
  output_.codes = take(sizes.codes + kPage).data() + codes_offset % kPage;
  output_.scale = take(sizes.scale).data();
  output_.zero = take(sizes.scale).data();
}

std::uint64_t ItemBuffer::read(ReadFile& file, const SourceTensor& tensor) {
  std::byte* row = gather_rows_ ? source_.slabs[0] : nullptr;
  for (std::size_t i = 0; i < ranges_.size(); ++i) {
    const std::uint64_t offset = tensor.offset + ranges_[i].offset;
    const std::span<std::byte> data = file.read(offset, ranges_[i].bytes, scratch_[gather_rows_ ? 0 : i]);
    if (gather_rows_) {
      std::memcpy(row, data.data(), data.size());
      row += data.size();
    } else if (source_.slabs.empty()) {
      copied_ = data;
    } else {
      source_.slabs[i] = data.data();  // ranges are those of the first slabs: only the last ones can be padding alone
    }
  }
  return total_bytes(ranges_);
}

}  // namespace halfquad
