#include "sharding/device_tiles.h"

namespace halfquad {

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
      tile.slabs.push_back({source.slabs[slab], rows.end - rows.begin});
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
