#include "sharding/item_buffer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/decode.h"
#include "runtime/check.h"
#include "runtime/checked.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kPage = BufferPool::kAlignment;

/// Beside the weights of a tile that is decoded: for what is read at a time, or for all of it as it is stored.
std::uint64_t decoding_bytes(const std::optional<CodedTile>& coded) {
  return std::max<std::uint64_t>(OpenCheckpoint::kScratchBytes, coded ? coded->bytes() : 0);
}

std::uint64_t source_bytes(const QuantizedTensor& tensor, std::int64_t tile, const SourceTensor& source) {
  const TileGeometry& tiles = tensor.tiles;
  const std::vector<ByteRange> ranges = tiles.source_ranges(tile, bytes_of(source.dtype));
  if (source.decoder != nullptr) {
    return round_up(total_bytes(ranges), kPage) + decoding_bytes(CodedTile::of(tensor, tile, source));
  }
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
  std::uint64_t codes = 0, scale = 0, zero = 0;
};

OutputSizes output_sizes(const TileGeometry& tiles, std::int64_t tile, DType stored) {
  const auto rounded_up = [](const std::vector<ByteRange>& ranges) {
    return round_up(total_bytes(ranges), std::uint64_t{64});
  };
  return {rounded_up(tiles.code_ranges(tile)), rounded_up(tiles.scale_ranges(tile, bytes_of(stored))),
          rounded_up(tiles.zero_ranges(tile, bytes_of(stored)))};
}

}  // namespace

std::uint64_t ItemBuffer::tile_bytes(const QuantizedTensor& tensor, std::int64_t tile, const SourceTensor& source,
                                     DType stored) {
  const OutputSizes sizes = output_sizes(tensor.tiles, tile, stored);
  return rounded(source_bytes(tensor, tile, source) + sizes.codes + kPage + sizes.scale + sizes.zero);
}

std::uint64_t ItemBuffer::copy_bytes(std::uint64_t block_bytes) noexcept { return rounded(scratch_bytes(block_bytes)); }

ItemBuffer::ItemBuffer(Buffer memory, ByteRange block) : memory_(std::move(memory)), ranges_{block} {
  scratch_.push_back(memory_.bytes());
}

namespace {

struct ConversionSizes {
  std::uint64_t source = 0, weights = 0, output = 0;
};

ConversionSizes conversion_sizes(const Conversion& conversion, const Conversion::Block& block,
                                 const SourceTensor& source) {
  const auto weights = static_cast<std::uint64_t>((block.end - block.begin) * conversion.cols);
  const std::uint64_t bytes = weights * static_cast<std::uint64_t>(bytes_of(source.dtype));
  return {source.decoder == nullptr ? scratch_bytes(bytes) : round_up(bytes, kPage) + OpenCheckpoint::kScratchBytes,
          round_up(weights * sizeof(float), kPage),
          round_up(block.elements * static_cast<std::uint64_t>(bytes_of(conversion.to)), kPage)};
}

}  // namespace

std::uint64_t ItemBuffer::conversion_bytes(const Conversion& conversion, const Conversion::Block& block,
                                           const SourceTensor& source) noexcept {
  const ConversionSizes sizes = conversion_sizes(conversion, block, source);
  return rounded(sizes.source + sizes.weights + sizes.output);
}

ItemBuffer::ItemBuffer(Buffer memory, const Conversion& conversion, const Conversion::Block& block,
                       const SourceTensor& source)
    : memory_(std::move(memory)), conversion_(&conversion), block_(block) {
  const ConversionSizes sizes = conversion_sizes(conversion, block, source);
  const auto element = static_cast<std::uint64_t>(bytes_of(source.dtype));
  const auto row_bytes = static_cast<std::uint64_t>(conversion.cols) * element;
  ranges_.push_back({static_cast<std::uint64_t>(block.begin) * row_bytes,
                     static_cast<std::uint64_t>(block.end - block.begin) * row_bytes});
  scratch_.push_back(memory_.bytes().first(sizes.source));
  const std::span<std::byte> weights = memory_.bytes().subspan(sizes.source, sizes.weights);
  weights_ = {reinterpret_cast<float*>(weights.data()), ranges_[0].bytes / element};
  copied_ = memory_.bytes().subspan(sizes.source + sizes.weights,
                                    block.elements * static_cast<std::uint64_t>(bytes_of(conversion.to)));
}

ItemBuffer::ItemBuffer(Buffer memory, const QuantizedTensor& tensor, std::int64_t tile, const SourceTensor& source,
                       DType stored, std::uint64_t codes_offset)
    : memory_(std::move(memory)), ranges_(tensor.tiles.source_ranges(tile, bytes_of(source.dtype))) {
  std::span<std::byte> rest = memory_.bytes();
  const auto take = [&rest](std::uint64_t bytes) {
    HALFQUAD_REQUIRE(bytes <= rest.size(), kInternal, "an item's buffer is too small for it");
    const std::span<std::byte> part = rest.first(bytes);
    rest = rest.subspan(bytes);
    return part;
  };
  const TileGeometry& tiles = tensor.tiles;
  source_.dtype = source.dtype;
  gather_rows_ = tiles.by_columns();
  if (source.decoder != nullptr) {
    std::byte* slab = take(round_up(total_bytes(ranges_), kPage)).data();
    coded_ = CodedTile::of(tensor, tile, source);
    scratch_.push_back(take(decoding_bytes(coded_)));
    source_.slabs.assign(gather_rows_ ? 1 : static_cast<std::size_t>(slabs_of(tiles.packing())), nullptr);
    source_.slabs[0] = slab;
    for (std::size_t i = 0; i < ranges_.size() && !gather_rows_; ++i) {
      source_.slabs[i] = slab;
      slab += ranges_[i].bytes;
    }
  } else if (gather_rows_) {
    source_.slabs.push_back(take(round_up(total_bytes(ranges_), kPage)).data());
    scratch_.push_back(take(scratch_bytes(ranges_.front().bytes)));
  } else {
    for (const ByteRange& range : ranges_) scratch_.push_back(take(scratch_bytes(range.bytes)));
    source_.slabs.assign(static_cast<std::size_t>(slabs_of(tiles.packing())), nullptr);
  }
  const OutputSizes sizes = output_sizes(tiles, tile, stored);
  output_.codes = take(sizes.codes + kPage).data() + codes_offset % kPage;
  output_.scale = take(sizes.scale).data();
  output_.zero = take(sizes.zero).data();
}

std::uint64_t ItemBuffer::read(const OpenCheckpoint& files, const SourceTensor& tensor, ReadAs as) {
  const bool copies = conversion_ == nullptr && source_.slabs.empty();
  if (tensor.decoder != nullptr && !copies) return read_decoded(files, tensor, as);
  ReadFile& file = files.file(tensor.file);
  std::byte* row = gather_rows_ ? source_.slabs[0] : nullptr;
  for (std::size_t i = 0; i < ranges_.size(); ++i) {
    const std::uint64_t offset = tensor.offset + ranges_[i].offset;
    const std::span<std::byte> data = file.read(offset, ranges_[i].bytes, scratch_[gather_rows_ ? 0 : i]);
    if (gather_rows_) {
      std::memcpy(row, data.data(), data.size());
      row += data.size();
    } else if (conversion_ != nullptr) {
      decode_to_f32(data.data(), tensor.dtype, static_cast<std::int64_t>(weights_.size()), weights_.data());
      conversion_->apply(block_, weights_, copied_.data());
    } else if (copies) {
      copied_ = data;
    } else {
      source_.slabs[i] = data.data();  // ranges are those of the first slabs: only the last ones can be padding alone
    }
  }
  return total_bytes(ranges_);
}

std::uint64_t ItemBuffer::read_decoded(const OpenCheckpoint& files, const SourceTensor& tensor, ReadAs as) {
  if (as == ReadAs::kWeights) coded_.reset();
  if (coded_) {
    coded_->read(files, scratch_[0]);
    decoded_ = false;
    return total_bytes(ranges_);
  }
  if (conversion_ == nullptr) {
    files.gather(tensor, ranges_, scratch_[0], source_.slabs[0]);
    return total_bytes(ranges_);
  }
  const std::span<std::byte> decoded = scratch_[0].first(ranges_[0].bytes);
  files.gather(tensor, ranges_, scratch_[0].subspan(round_up(ranges_[0].bytes, kPage)), decoded.data());
  decode_to_f32(decoded.data(), tensor.dtype, static_cast<std::int64_t>(weights_.size()), weights_.data());
  conversion_->apply(block_, weights_, copied_.data());
  return ranges_[0].bytes;
}

const TileSource& ItemBuffer::source() {
  // Tiles of rows: their slabs lie back to back.
  if (!decoded_) coded_->decode(reinterpret_cast<float*>(source_.slabs[0]));
  decoded_ = true;
  return source_;
}

}  // namespace halfquad
