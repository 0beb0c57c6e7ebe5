#include "sharding/tile_solver.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "kernels/decode.h"
#include "kernels/pack.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

// Weights whose source, codes and scales stay in a core's L2 beside the solver's own scratch.
constexpr std::int64_t kStripWeights = 128 << 10;

// Packed rows (or columns) of one strip: whole vectors of groups for every instruction set.
std::int64_t strip_extent(const TileGeometry& tiles) {
  const GroupedShape& shape = tiles.grouped();
  const std::int64_t unit = tiles.by_columns() ? shape.rows : shape.cols * slabs_of(tiles.packing());
  return std::max<std::int64_t>(16, kStripWeights / unit / 16 * 16);
}

struct Range {
  std::int64_t begin = 0, end = 0;  // inside the tile
  [[nodiscard]] std::int64_t size() const { return end - begin; }
};

Range strip_range(const TileGeometry& tiles, std::int64_t tile, std::int64_t strip) {
  const std::int64_t extent = strip_extent(tiles);
  const std::int64_t size = tiles.tile_end(tile) - tiles.tile_begin(tile);
  return {strip * extent, std::min(size, (strip + 1) * extent)};
}

}  // namespace

std::int64_t TileSolver::strip_count(const QuantizedTensor& tensor, std::int64_t tile) {
  const std::int64_t size = tensor.tiles.tile_end(tile) - tensor.tiles.tile_begin(tile);
  return ceil_div(size, strip_extent(tensor.tiles));
}

bool TileSolver::solve(const Job& job, std::int64_t strip, const TileSource& source, const TileOutput& output,
                       StripResult& result, std::vector<ExactSum>& step_abs) {
  const TileGeometry& tiles = job.tensor->tiles;
  const Range range = strip_range(tiles, job.tile, strip);
  SolveStats stats;
  stats.step_abs.swap(step_abs);  // the sums go on where they are
  const bool finite = tiles.by_columns() ? solve_columns(job, range.begin, range.end, source, output, stats)
                                         : solve_rows(job, range.begin, range.end, source, output, stats);
  stats.step_abs.swap(step_abs);
  result.error = stats.final_error;
  result.settled = stats.settled;
  return finite;
}

bool TileSolver::solve_rows(const Job& job, std::int64_t begin, std::int64_t end, const TileSource& source,
                            const TileOutput& output, SolveStats& stats) {
  const TileGeometry& tiles = job.tensor->tiles;
  const std::int64_t cols = tiles.grouped().cols;
  const std::int64_t first = tiles.tile_begin(job.tile);
  const std::int64_t last = tiles.tile_end(job.tile);
  const std::int64_t strip_codes = (end - begin) * cols;
  const int slabs = slabs_of(tiles.packing());
  codes_.resize(static_cast<std::size_t>(strip_codes * slabs));
  std::vector<const std::uint8_t*> packed_from(static_cast<std::size_t>(slabs), nullptr);

  std::int64_t scales_before = 0;  // of the tile's earlier slabs
  for (int slab = 0; slab < slabs; ++slab) {
    const TileGeometry::RowRange all = tiles.slab_rows(slab, first, last);
    const TileGeometry::RowRange rows = tiles.slab_rows(slab, first + begin, first + end);
    const std::int64_t groups = rows.end - rows.begin;
    const std::int64_t tile_groups = all.end - all.begin;
    if (groups > 0) {
      std::uint8_t* codes = codes_.data() + slab * strip_codes;
      packed_from[static_cast<std::size_t>(slab)] = codes;
      std::fill(codes + groups * cols, codes + strip_codes, std::uint8_t{0});  // 3-bit padding
      const std::int64_t offset = rows.begin - all.begin;
      const GroupBlock block{source.slabs[static_cast<std::size_t>(slab)] + offset * cols * bytes_of(source.dtype),
                             source.dtype,
                             groups,
                             cols,
                             cols,
                             1};
      if (!solve_block(job, block, {codes, cols, 1, nullptr, nullptr}, stats)) return false;
      const std::int64_t at = (scales_before + offset) * bytes_of(job.stored);
      if (job.grid == nullptr) store_grid(job, groups, output.scale + at, output.zero + at);
    }
    scales_before += tile_groups;
  }
  const std::int64_t unit = cols * packed_bytes_of(tiles.packing());
  pack_codes(tiles.packing(), packed_from, strip_codes, output.codes + begin * unit);
  return true;
}

bool TileSolver::solve_columns(const Job& job, std::int64_t begin, std::int64_t end, const TileSource& source,
                               const TileOutput& output, SolveStats& stats) {
  const TileGeometry& tiles = job.tensor->tiles;
  const std::int64_t rows = tiles.grouped().rows;
  const std::int64_t width = end - begin;
  const std::int64_t tile_width = tiles.tile_end(job.tile) - tiles.tile_begin(job.tile);
  const std::int64_t packed_rows = tiles.packed_rows();
  const int slabs = slabs_of(tiles.packing());
  codes_.assign(static_cast<std::size_t>(packed_rows * slabs * width), 0);

  const GroupBlock block{source.slabs[0] + begin * bytes_of(source.dtype), source.dtype, width, rows, 1, tile_width};
  if (!solve_block(job, block, {codes_.data(), 1, width, nullptr, nullptr}, stats)) return false;
  const std::int64_t at = begin * bytes_of(job.stored);
  store_grid(job, width, output.scale + at, output.zero + at);

  const std::int64_t element = packed_bytes_of(tiles.packing());
  std::vector<const std::uint8_t*> packed_from(static_cast<std::size_t>(slabs));
  for (std::int64_t row = 0; row < packed_rows; ++row) {
    for (int slab = 0; slab < slabs; ++slab) {
      packed_from[static_cast<std::size_t>(slab)] = codes_.data() + (slab * packed_rows + row) * width;
    }
    pack_codes(tiles.packing(), packed_from, width, output.codes + (row * tile_width + begin) * element);
  }
  return true;
}

bool TileSolver::solve_block(const Job& job, const GroupBlock& block, const SolveTarget& target, SolveStats& stats) {
  const QuantSpec& spec = job.tensor->spec;
  if (job.grid != nullptr) {
    solver_->encode(block, spec.width, *job.grid, job.stored, target, stats);
    return !stats.nonfinite;
  }
  scale_.resize(static_cast<std::size_t>(block.groups));
  zero_.resize(static_cast<std::size_t>(block.groups));
  SolveRequest request;
  request.spec = spec;
  request.iters = job.iters;
  request.stored = job.stored;
  request.record = job.record;
  SolveTarget placed = target;
  placed.scale = scale_.data();
  placed.zero = zero_.data();
  solver_->solve(block, request, placed, stats);
  return !stats.nonfinite;
}

void TileSolver::store_grid(const Job& job, std::int64_t groups, std::byte* scale, std::byte* zero) const {
  // Rounding is monotonic: when the largest magnitude fits, all do. As integers magnitudes order alike, NaN above
  // infinity.
  const auto fits = [&](const std::vector<float>& values) {
    std::int32_t largest = 0;
    for (const float value : values) largest = std::max(largest, std::bit_cast<std::int32_t>(std::abs(value)));
    return std::isfinite(round_to(job.stored, std::bit_cast<float>(largest)));
  };
  const bool scales_fit = fits(scale_);
  if (!scales_fit || !fits(zero_)) [[unlikely]] {
    throw Error(ErrorCode::kBadInput, "layer " + quoted(job.tensor->module) + ": a " + (scales_fit ? "zero" : "scale") +
                                          " does not fit " + std::string(name_of(job.stored)) +
                                          "; use --scale-dtype f32, or leave the layer out with --skip");
  }
  encode_from_f32(scale_.data(), job.stored, groups, scale);
  encode_from_f32(zero_.data(), job.stored, groups, zero);
}

WeightRange TileSolver::range(const QuantizedTensor& tensor, std::int64_t tile, const TileSource& source) {
  const TileGeometry& tiles = tensor.tiles;
  WeightRange all;
  for (std::size_t slab = 0; slab < source.slabs.size(); ++slab) {
    if (source.slabs[slab] == nullptr) continue;
    const TileGeometry::RowRange rows =
        tiles.slab_rows(static_cast<int>(slab), tiles.tile_begin(tile), tiles.tile_end(tile));
    all.add(solver_->range(source.slabs[slab], source.dtype, (rows.end - rows.begin) * tiles.grouped().cols));
  }
  return all;
}

}  // namespace halfquad
