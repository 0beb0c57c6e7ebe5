#include "sharding/stored_tile.h"

#include <algorithm>
#include <array>
#include <cstring>

#include <fmt/format.h>

#include "kernels/decode.h"
#include "kernels/pack.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr int kMaxSlabs = 10;

/// Sizes of one tile. The first tile is the largest in every respect.
struct TileSizes {
  std::vector<ByteRange> code_ranges;
  std::vector<ByteRange> scale_ranges;
  std::uint64_t packed = 0;     // bytes
  std::uint64_t elements = 0;   // of the tensor
  std::uint64_t unpacked = 0;   // elements and the padding rows of a slab that is partly inside
  std::uint64_t scales = 0;     // as shown in StoredTile
  std::uint64_t raw_scale = 0;  // bytes
};

TileSizes sizes_of(const StoredLayer& layer, std::int64_t tile) {
  const TileGeometry& tiles = layer.tiles;
  TileSizes sizes;
  sizes.code_ranges = tiles.code_ranges(tile);
  sizes.packed = total_bytes(sizes.code_ranges);
  sizes.elements = total_bytes(tiles.source_ranges(tile, 1));
  sizes.unpacked =
      std::max(sizes.elements, sizes.packed / static_cast<std::uint64_t>(packed_bytes_of(tiles.packing())) *
                                   static_cast<std::uint64_t>(slabs_of(tiles.packing())));
  const auto element_bytes = static_cast<std::uint64_t>(bytes_of(layer.stored));
  if (layer.spec.channel_wise) {
    sizes.scale_ranges = tiles.scale_ranges(tile, bytes_of(layer.stored));
    sizes.raw_scale = total_bytes(sizes.scale_ranges);
    sizes.scales = sizes.raw_scale / element_bytes;
  } else {
    sizes.scale_ranges = {{0, element_bytes}};
    sizes.raw_scale = element_bytes;
    sizes.scales = sizes.elements / static_cast<std::uint64_t>(tiles.grouped().cols);
  }
  return sizes;
}

std::uint64_t row_workspace_bytes(const StoredLayer& layer) {
  const TileGeometry& tiles = layer.tiles;
  const std::int64_t end = tiles.end_row(0);
  std::uint64_t bytes = Workspace::cost(OpenCheckpoint::kScratchBytes);
  for (const RowCut* cut : {&tiles.cuts().codes, &tiles.cuts().scale, &tiles.cuts().zero}) {
    bytes += Workspace::cost(static_cast<std::uint64_t>(cut->runs) * cut->bytes_in_run(0, end));
  }
  return bytes + Workspace::cost(static_cast<std::uint64_t>(end * layer.cols));
}

void unpack_rows(const TileGeometry& tiles, std::int64_t tile, const std::byte* packed, std::uint8_t* codes) {
  const std::int64_t begin = tiles.tile_begin(tile);
  const std::int64_t end = tiles.tile_end(tile);
  const std::int64_t count = (end - begin) * tiles.grouped().cols;
  const int slab_count = slabs_of(tiles.packing());
  std::array<std::uint8_t*, kMaxSlabs> slabs{};
  for (int s = 0; s < slab_count; ++s) {
    const auto rows = tiles.slab_rows(s, begin, end);
    if (rows.begin < rows.end) slabs[static_cast<std::size_t>(s)] = codes + s * count;
  }
  unpack_codes(tiles.packing(), packed, count, std::span(slabs).first(static_cast<std::size_t>(slab_count)));
}

void unpack_columns(const TileGeometry& tiles, std::int64_t tile, const std::byte* packed, std::uint8_t* codes) {
  const std::int64_t width = tiles.tile_end(tile) - tiles.tile_begin(tile);
  const int slab_count = slabs_of(tiles.packing());
  std::array<std::uint8_t*, kMaxSlabs> slabs{};
  for (std::int64_t row = 0; row < tiles.packed_rows(); ++row) {
    for (int s = 0; s < slab_count; ++s) {
      const std::int64_t grouped_row = s * tiles.packed_rows() + row;
      slabs[static_cast<std::size_t>(s)] = grouped_row < tiles.grouped().rows ? codes + grouped_row * width : nullptr;
    }
    unpack_codes(tiles.packing(), packed, width, std::span(slabs).first(static_cast<std::size_t>(slab_count)));
    packed += width * packed_bytes_of(tiles.packing());
  }
}

}  // namespace

std::uint64_t Workspace::cost(std::uint64_t bytes) noexcept {
  return round_up<std::uint64_t>(bytes, BufferPool::kAlignment);
}

std::span<std::byte> Workspace::take(std::uint64_t bytes) {
  HALFQUAD_REQUIRE(cost(bytes) <= rest_.size(), kInternal,
                   fmt::format("a worker's buffer has {} bytes left and {} are needed", rest_.size(), bytes));
  const auto part = rest_.first(bytes);
  rest_ = rest_.subspan(cost(bytes));
  return part;
}

WorkerBuffers::WorkerBuffers(int threads, std::uint64_t bytes, std::uint64_t budget) : pool_(budget) {
  const std::uint64_t each = Workspace::cost(bytes);
  HALFQUAD_REQUIRE(each <= budget, kOutOfMemory,
                   fmt::format("the largest tile needs {} of buffers, more than the memory budget of {}; allow more",
                               human_bytes(each), human_bytes(budget)));
  const std::uint64_t workers =
      std::min<std::uint64_t>(budget / each, static_cast<std::uint64_t>(std::max(1, threads)));
  for (std::uint64_t i = 0; i < workers; ++i) buffers_.push_back(pool_.acquire(each));
}

std::uint64_t StoredTileReader::workspace_bytes(const StoredLayer& layer) {
  if (layer.tiles.whole_rows()) return row_workspace_bytes(layer);
  const TileSizes sizes = sizes_of(layer, 0);
  return Workspace::cost(OpenCheckpoint::kScratchBytes) + Workspace::cost(sizes.packed) +
         Workspace::cost(sizes.unpacked) + Workspace::cost(sizes.raw_scale) +
         2 * Workspace::cost(sizes.scales * sizeof(float));
}

std::uint64_t StoredTileReader::layer_bytes(const QuantizedModel& output, const StoredLayer& layer) {
  const auto tensors = output.checkpoint().tensors();
  std::uint64_t scales = 0;
  for (const std::size_t grid : {layer.scale, layer.zero}) {
    if (grid != StoredLayer::kNoTensor) scales += tensors[grid].bytes;
  }
  // The one scale of a per-tensor layer is read with every tile.
  const std::uint64_t readings = layer.spec.channel_wise ? 1 : static_cast<std::uint64_t>(layer.tiles.tile_count());
  return tensors[layer.codes].bytes + scales * readings;
}

StoredTile StoredTileReader::load_rows(const StoredLayer& layer, std::int64_t tile) {
  const TileGeometry& tiles = layer.tiles;
  const RowCuts& cuts = tiles.cuts();
  const std::int64_t begin = tiles.first_row(tile);
  const std::int64_t end = tiles.end_row(tile);
  Workspace workspace(workspace_);
  const auto scratch = workspace.take(OpenCheckpoint::kScratchBytes);
  const auto fetch = [&](const RowCut& cut, std::size_t tensor) -> LineBytes<const std::byte> {
    if (cut.empty()) return {};
    const std::vector<ByteRange> ranges = cut.ranges(begin, end);
    const auto data = workspace.take(total_bytes(ranges));
    files_.gather(output_.checkpoint().tensors()[tensor], ranges, scratch, data.data());
    bytes_read_ += data.size();
    return {data.data(), cut.bytes_in_run(begin, end)};
  };
  const RowPlaces<const std::byte> places{fetch(cuts.codes, layer.codes), fetch(cuts.scale, layer.scale),
                                          fetch(cuts.zero, layer.zero)};
  StoredTile out;
  out.groups = tiles.tile_end(tile) - tiles.tile_begin(tile);
  out.group_elems = tiles.grouped().cols;
  out.group_stride = out.group_elems;
  auto* const codes =
      reinterpret_cast<std::uint8_t*>(workspace.take(static_cast<std::uint64_t>(out.elements())).data());
  grid_.scale.resize(static_cast<std::size_t>(out.groups));
  grid_.second.resize(static_cast<std::size_t>(out.groups));
  layer.unpack(begin, places, {end - begin, codes, grid_.scale.data(), grid_.second.data()});
  grid_.derive(layer.packer->form(layer.spec));
  out.codes = codes;
  out.scale = grid_.scale.data();
  out.zero = grid_.zero.data();
  out.levels = layer.values();
  return out;
}

StoredTile StoredTileReader::load(const StoredLayer& layer, std::int64_t tile) {
  if (layer.tiles.whole_rows()) return load_rows(layer, tile);
  const TileSizes sizes = sizes_of(layer, tile);
  const auto tensors = output_.checkpoint().tensors();
  Workspace workspace(workspace_);
  const auto scratch = workspace.take(OpenCheckpoint::kScratchBytes);

  const auto packed = workspace.take(sizes.packed);
  files_.gather(tensors[layer.codes], sizes.code_ranges, scratch, packed.data());
  auto* const codes = reinterpret_cast<std::uint8_t*>(workspace.take(sizes.unpacked).data());
  const bool by_columns = layer.tiles.by_columns();
  (by_columns ? unpack_columns : unpack_rows)(layer.tiles, tile, packed.data(), codes);

  const auto raw = workspace.take(sizes.raw_scale);
  const auto read_floats = [&](std::size_t tensor) {
    auto* const values = reinterpret_cast<float*>(workspace.take(sizes.scales * sizeof(float)).data());
    files_.gather(tensors[tensor], sizes.scale_ranges, scratch, raw.data());
    const auto stored = static_cast<std::int64_t>(layer.spec.channel_wise ? sizes.scales : 1);
    decode_to_f32(raw.data(), layer.stored, stored, values);
    if (!layer.spec.channel_wise) std::fill_n(values, sizes.scales, values[0]);
    return values;
  };

  bytes_read_ += sizes.packed + 2 * sizes.raw_scale;
  StoredTile out;
  out.groups = static_cast<std::int64_t>(sizes.scales);
  out.group_elems = static_cast<std::int64_t>(sizes.elements / sizes.scales);
  out.group_stride = by_columns ? 1 : out.group_elems;
  out.element_stride = by_columns ? out.groups : 1;
  out.codes = codes;
  out.scale = read_floats(layer.scale);
  out.zero = read_floats(layer.zero);
  return out;
}

}  // namespace halfquad
