#include "sharding/device_tiles.h"

#include <optional>
#include <vector>

#include "kernels/decode.h"
#include "runtime/checked.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kAlignment = 64;

// Weights of a group with a whole zero: the sums of more, whole numbers of up to 30 bits, may round as doubles, and not
// alike in every order.
constexpr std::int64_t kMostInWhole = 1 << 23;

std::int64_t groups_of(const TileSolver::Job& job) noexcept {
  return job.tensor->tiles.tile_end(job.tile) - job.tensor->tiles.tile_begin(job.tile);
}

std::uint64_t codes_bytes(const TileSolver::Job& job) noexcept {
  return round_up(static_cast<std::uint64_t>(groups_of(job) * job.tensor->tiles.grouped().cols), kAlignment);
}

/// What a device leaves scales and zeros in: those of floating-point grids are not yet what the format keeps.
DType stored_of(const TileSolver::Job& job) noexcept {
  return job.tensor->spec.grid == FloatGrid::kNone ? job.stored : DType::kF32;
}

std::uint64_t grid_bytes(const TileSolver::Job& job) noexcept {
  return round_up(static_cast<std::uint64_t>(groups_of(job) * bytes_of(stored_of(job))), kAlignment);
}

std::optional<DeviceTile::StoredForm> form_of(const QuantizedTensor& tensor) {
  if (!tensor.encodes_stored() || tensor.spec.grid != FloatGrid::kNone) return std::nullopt;
  const GridForm form = tensor.packer == nullptr ? GridForm{} : tensor.packer->form(tensor.spec);
  return DeviceTile::StoredForm{form.second == GridForm::Second::kOffset, form.middle};
}

/// Where the weights of a tile lie.
void put_weights(DeviceTile& tile, const TileSource& source, const TileSolver::Job& job) {
  const TileGeometry& tiles = job.tensor->tiles;
  const std::int64_t begin = tiles.tile_begin(job.tile), end = tiles.tile_end(job.tile);
  tile.source = source.dtype;
  if (tile.by_columns) {
    tile.cols = end - begin;
    tile.packed_rows = tiles.packed_rows();
    tile.slabs = {{source.slabs[0], tiles.grouped().rows}};
  } else {
    tile.cols = tiles.grouped().cols;
    tile.packed_rows = end - begin;
    for (std::size_t slab = 0; slab < source.slabs.size(); ++slab) {
      const TileGeometry::RowRange rows = tiles.slab_rows(static_cast<int>(slab), begin, end);
      tile.slabs.push_back({source.slabs[slab], rows.end - rows.begin, rows.begin * tile.cols % job.tensor->cols});
    }
  }
}

/// Where its codes and scales do.
void put_coded(DeviceTile& tile, const CodedTile& coded, const TileSolver::Job& job) {
  const TileGeometry& tiles = job.tensor->tiles;
  const ScaledCodes& layout = coded.layout();
  tile.source = DType::kF32;
  tile.coded = {layout.dtype, layout.scale_dtype, layout.cols, layout.block_rows, layout.block_cols};
  tile.cols = tiles.grouped().cols;
  tile.packed_rows = tiles.tile_end(job.tile) - tiles.tile_begin(job.tile);
  for (const CodedTile::Run& run : coded.runs()) {
    const MatrixRun& at = run.elements;
    tile.slabs.push_back({run.codes.data(), at.count / tile.cols, at.first_col, at.first_row, run.scales});
  }
  tile.slabs.resize(static_cast<std::size_t>(slabs_of(tiles.packing())));  // only the last can be padding alone
}

}  // namespace

bool devices_solve(const QuantizedTensor& tensor) noexcept {
  const QuantSpec& spec = tensor.spec;
  if (tensor.given || spec.has_levels() || spec.super_blocks) return false;
  if (spec.grid != FloatGrid::kNone) return tensor.tiles.whole_rows();
  return spec.zeros == ZeroKind::kFloat || (!tensor.tiles.by_columns() && tensor.tiles.grouped().cols <= kMostInWhole);
}

std::uint64_t unpacked_bytes(const TileSolver::Job& job) noexcept {
  return job.tensor->tiles.whole_rows() ? codes_bytes(job) + 2 * grid_bytes(job) : 0;
}

TileOutput unpacked_output(const TileSolver::Job& job, std::byte* memory) noexcept {
  std::byte* const scale = memory + codes_bytes(job);
  return {memory, scale, scale + grid_bytes(job)};
}

void pack_unpacked(const TileSolver::Job& job, const TileOutput& unpacked, const TileOutput& output) {
  const std::int64_t groups = groups_of(job);
  std::vector<float> scale(static_cast<std::size_t>(groups)), second(scale.size());
  decode_to_f32(unpacked.scale, stored_of(job), groups, scale.data());
  decode_to_f32(unpacked.zero, stored_of(job), groups, second.data());
  const auto* const codes = reinterpret_cast<const std::uint8_t*>(unpacked.codes);
  TileSolver::pack_rows(job, {0, groups, codes, scale.data(), second.data()}, output);
}

DeviceTile device_tile(const TileSolver::Job& job, ItemBuffer& buffer, const TileOutput& output) {
  const TileGeometry& tiles = job.tensor->tiles;
  DeviceTile tile;
  tile.spec = job.tensor->spec;
  tile.tensor_scale = job.tensor_scale;
  tile.stored = stored_of(job);
  tile.iters = job.iters;
  tile.record = job.record;
  if (job.grid != nullptr) tile.grid = *job.grid;
  tile.form = form_of(*job.tensor);
  tile.unpacked = tiles.whole_rows();
  if (job.importance != nullptr) tile.importance = {job.importance, static_cast<std::size_t>(job.tensor->cols)};
  tile.by_columns = tiles.by_columns();
  if (const CodedTile* coded = buffer.coded()) {
    put_coded(tile, *coded, job);
  } else {
    put_weights(tile, buffer.source(), job);
  }
  tile.codes = output.codes;
  tile.scale = output.scale;
  tile.zero = output.zero;
  return tile;
}

// A strip that is solved again brings its own error, so all strips have to be once any is: they share `settled`, which
// decides that, and the first stands for the errors of all.
void spread_result(const DeviceResult& result, std::span<StripResult> strips) {
  for (StripResult& strip : strips) strip = {{}, result.settled};
  if (!strips.empty()) strips.front().error = result.error;
}

}  // namespace halfquad
