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

std::uint64_t grid_bytes(const TileSolver::Job& job) noexcept {
  return round_up(static_cast<std::uint64_t>(groups_of(job) * bytes_of(job.stored)), kAlignment);
}

std::optional<DeviceTile::StoredForm> form_of(const QuantizedTensor& tensor) {
  if (!tensor.encodes_stored()) return std::nullopt;
  const GridForm form = tensor.packer == nullptr ? GridForm{} : tensor.packer->form(tensor.spec);
  return DeviceTile::StoredForm{form.second == GridForm::Second::kOffset, form.middle};
}

}  // namespace

bool devices_solve(const QuantizedTensor& tensor) noexcept {
  const QuantSpec& spec = tensor.spec;
  if (tensor.given || spec.grid != FloatGrid::kNone || spec.super_blocks) return false;
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
  decode_to_f32(unpacked.scale, job.stored, groups, scale.data());
  decode_to_f32(unpacked.zero, job.stored, groups, second.data());
  const auto* const codes = reinterpret_cast<const std::uint8_t*>(unpacked.codes);
  TileSolver::pack_rows(job, {0, groups, codes, scale.data(), second.data()}, output);
}

DeviceTile device_tile(const TileSolver::Job& job, const TileSource& source, const TileOutput& output) {
  const TileGeometry& tiles = job.tensor->tiles;
  const std::int64_t begin = tiles.tile_begin(job.tile);
  const std::int64_t end = tiles.tile_end(job.tile);
  DeviceTile tile;
  tile.spec = job.tensor->spec;
  tile.source = source.dtype;
  tile.stored = job.stored;
  tile.iters = job.iters;
  tile.record = job.record;
  if (job.grid != nullptr) tile.grid = *job.grid;
  tile.form = form_of(*job.tensor);
  tile.unpacked = tiles.whole_rows();
  if (job.importance != nullptr) tile.importance = {job.importance, static_cast<std::size_t>(job.tensor->cols)};
  tile.by_columns = tiles.by_columns();
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
