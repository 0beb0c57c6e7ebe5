#include "sharding/tile_solver.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <span>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "kernels/decode.h"
#include "kernels/float_grid.h"
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
  if (tiles.whole_rows()) {
    const std::int64_t row = shape.cols * tiles.groups_per_row();
    return std::max<std::int64_t>(1, kStripWeights / row / TileGeometry::kRowStep) * TileGeometry::kRowStep *
           tiles.groups_per_row();
  }
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

SolveRequest request_for(const TileSolver::Job& job) {
  SolveRequest request;
  request.spec = job.tensor->spec;
  request.iters = job.iters;
  request.stored = job.stored;
  request.record = job.record;
  return request;
}

/// For a block whose first weight is number `first` of the tensor.
ColumnWeights column_weights(const TileSolver::Job& job, std::int64_t first) {
  const std::int64_t cols = job.tensor->cols;
  return {job.importance, cols, first % cols};
}

[[noreturn]] void throw_unstorable(const TileSolver::Job& job, std::string_view what) {
  throw Error(ErrorCode::kBadInput,
              fmt::format("layer {}: a {} does not fit {}; use --scale-dtype f32, or leave the layer out with --skip",
                          quoted(job.tensor->module), what, name_of(job.stored)));
}

const FloatGridSearcher& float_searcher() {
  static const std::unique_ptr<FloatGridSearcher> kSearcher = make_float_searcher();
  return *kSearcher;
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
  const auto solve_strip = tiles.whole_rows()   ? &TileSolver::solve_whole_rows
                           : tiles.by_columns() ? &TileSolver::solve_columns
                                                : &TileSolver::solve_rows;
  const bool finite = (this->*solve_strip)(job, range.begin, range.end, source, output, stats);
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
                             1,
                             column_weights(job, rows.begin * cols)};
      const SolveTarget target{codes, cols, 1, nullptr, nullptr};
      if (!solve_block(job, block, target, stats)) return false;
      if (job.tensor->encodes_stored() && !encode_stored(job, block, target, stats)) return false;
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

// Groups begin..end of the tile, which are whole rows.
bool TileSolver::solve_whole_rows(const Job& job, std::int64_t begin, std::int64_t end, const TileSource& source,
                                  const TileOutput& output, SolveStats& stats) {
  const QuantizedTensor& tensor = *job.tensor;
  if (tensor.spec.super_blocks) return search_super_blocks(job, begin, end, source, output, stats);
  const TileGeometry& tiles = tensor.tiles;
  const std::int64_t elems = tiles.grouped().cols;
  const std::int64_t groups = end - begin;
  codes_.resize(static_cast<std::size_t>(groups * elems));
  const GroupBlock block{
      source.slabs[0] + begin * elems * bytes_of(source.dtype),         source.dtype, groups, elems, elems, 1,
      column_weights(job, (tiles.tile_begin(job.tile) + begin) * elems)};
  const SolveTarget target{codes_.data(), elems, 1, nullptr, nullptr};
  if (tensor.spec.grid != FloatGrid::kNone) {
    if (!search_floats(job, block, stats)) return false;
  } else {
    if (!solve_block(job, block, target, stats)) return false;
    if (tensor.encodes_stored() && !encode_stored(job, block, target, stats)) return false;
  }

  pack_rows(job, {begin, end, codes_.data(), grid_.scale.data(), grid_.second.data()}, output);
  return true;
}

void TileSolver::pack_rows(const Job& job, const SolvedRows& rows, const TileOutput& output) {
  const QuantizedTensor& tensor = *job.tensor;
  const TileGeometry& tiles = tensor.tiles;
  const std::int64_t per_row = tiles.groups_per_row();
  const std::int64_t tile_row = tiles.first_row(job.tile);
  const std::int64_t row = tile_row + rows.begin / per_row;
  const std::int64_t count = (rows.end - rows.begin) / per_row;
  const RowShape shape{tensor.spec, tensor.rows, tensor.cols, job.stored, job.tensor_scale};
  const RowCuts& cuts = tiles.cuts();
  if (tensor.order.kind != RowOrder::Kind::kSame) {
    // Rows one by one, each to its place. Such layers lie in one tensor whose rows are units of their own.
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint64_t to = cuts.codes.offset_of(tensor.order.output_row(row + i));
      tensor.packer->pack(shape, {1, rows.codes + i * tensor.cols, rows.scale + i * per_row, rows.second + i * per_row},
                          {{output.codes + (to - cuts.codes.offset_of(tile_row)), cuts.codes.unit_bytes}, {}, {}});
    }
    return;
  }
  const auto place = [&](const RowCut& cut, std::byte* data) -> LineBytes<std::byte> {
    if (cut.empty()) return {};
    return {data + (cut.offset_of(row) - cut.offset_of(tile_row)), cut.bytes_in_run(tile_row, tiles.end_row(job.tile))};
  };
  tensor.packer->pack(
      shape, {count, rows.codes, rows.scale, rows.second},
      {place(cuts.codes, output.codes), place(cuts.scale, output.scale), place(cuts.zero, output.zero)});
}

// Groups begin..end of the tile, rows of super-blocks: scales are searched together with what they are units of.
bool TileSolver::search_super_blocks(const Job& job, std::int64_t begin, std::int64_t end, const TileSource& source,
                                     const TileOutput& output, SolveStats& stats) {
  const QuantizedTensor& tensor = *job.tensor;
  const std::int64_t per_row = tensor.tiles.groups_per_row();
  const std::int64_t tile_row = tensor.tiles.first_row(job.tile);
  const std::int64_t first = tile_row + begin / per_row;
  const std::int64_t rows = (end - begin) / per_row;
  const std::byte* const data = source.slabs[0] + (first - tile_row) * tensor.cols * bytes_of(source.dtype);
  if (find_nonfinite(data, source.dtype, rows * tensor.cols)) return false;
  weights_.resize(static_cast<std::size_t>(rows * tensor.cols));
  decode_to_f32(data, source.dtype, rows * tensor.cols, weights_.data());

  const RowCut& cut = tensor.tiles.cuts().codes;
  const RowShape shape{tensor.spec, tensor.rows, tensor.cols, job.stored};
  const std::int64_t together = tensor.order.kind == RowOrder::Kind::kSame ? rows : 1;
  for (std::int64_t row = 0; row < rows; row += together) {
    const std::int64_t to = tensor.order.output_row(first + row);
    const auto weights = std::span(weights_).subspan(static_cast<std::size_t>(row * tensor.cols),
                                                     static_cast<std::size_t>(together * tensor.cols));
    tensor.packer->search(shape, weights, job.importance,
                          {{output.codes + (cut.offset_of(to) - cut.offset_of(tile_row)), cut.unit_bytes}, {}, {}},
                          stats.final_error);
  }
  return true;
}

// Whole rows on a floating-point grid, whose codes and scales are searched together.
bool TileSolver::search_floats(const Job& job, const GroupBlock& block, SolveStats& stats) {
  const QuantizedTensor& tensor = *job.tensor;
  const QuantSpec& spec = tensor.spec;
  grid_.scale.resize(static_cast<std::size_t>(block.groups));
  grid_.second.assign(grid_.scale.size(), spec.has_levels() ? 0.0F : static_cast<float>(kFloatCodeZero));
  if (tensor.given) {
    take_floats(job, block, stats);
    return true;
  }
  const std::int64_t count = block.groups * block.group_elems;
  if (find_nonfinite(block.data, block.dtype, count)) return false;
  weights_.resize(static_cast<std::size_t>(count));
  decode_to_f32(block.data, block.dtype, count, weights_.data());
  float_searcher().run({.grid = spec.grid,
                        .tensor_scale = job.tensor_scale,
                        .weights = weights_.data(),
                        .groups = block.groups,
                        .importance = job.importance,
                        .cols = tensor.cols,
                        .of_levels = {.levels = job.levels,
                                      .group_elems = block.group_elems,
                                      .stored = job.stored,
                                      .starts = spec.starts,
                                      .rounds = spec.rounds}},
                       spec.solver == SolverKind::kRtn ? ScaleSearch::kLargest : ScaleSearch::kBest,
                       {codes_.data(), grid_.scale.data()});
  require_finite_scales(job);
  GroupBlock weights = block;
  weights.data = reinterpret_cast<const std::byte*>(weights_.data());
  weights.dtype = DType::kF32;
  solver_->measure(weights, found_codes(job), stats.final_error);
  return true;
}

void TileSolver::require_finite_scales(const Job& job) const {
  if (std::ranges::all_of(grid_.scale, [](float scale) { return std::isfinite(scale); })) return;
  throw_unstorable(job, "scale");
}

GivenCodes TileSolver::found_codes(const Job& job) const noexcept {
  return {codes_.data(), grid_.scale.data(), grid_.second.data(), job.levels == nullptr ? nullptr : job.levels->data()};
}

// Groups that come with codes and scales of the same grid.
void TileSolver::take_floats(const Job& job, const GroupBlock& block, SolveStats& stats) {
  given_.assign(block, block.group_elems, 1, found_codes(job).levels);
  HALFQUAD_REQUIRE(given_.finite, kBadInput,
                   fmt::format("layer {}: its scales make a NaN or an infinity", quoted(job.tensor->module)));
  codes_ = given_.codes;
  grid_.scale = given_.scale;
  if (job.tensor->spec.has_levels()) {
    for (float& scale : grid_.scale) {
      if (scale != 0) scale = std::copysign(stored_level_scale(job.stored, std::abs(scale)), scale);
    }
    require_finite_scales(job);
  }
  solver_->measure(given_.block(), found_codes(job), stats.final_error);
}

// Codes on the grids that were found, once these are as the format stores them.
bool TileSolver::encode_stored(const Job& job, const GroupBlock& block, const SolveTarget& target, SolveStats& stats) {
  const QuantizedTensor& tensor = *job.tensor;
  const GridForm form = tensor.packer == nullptr ? GridForm{} : tensor.packer->form(tensor.spec);
  if (tensor.spec.solver == SolverKind::kAls && tensor.spec.zeros == ZeroKind::kFloat) refit_zeros(job, block);
  if (!grid_.assign(form, tensor.spec.zeros, job.stored, scale_.data(), zero_.data(), scale_.size())) {
    if (find_nonfinite(block.data, block.dtype, block.groups * block.group_elems)) return false;
    throw_unstorable(job, "scale or what is stored beside it");
  }
  SolveStats again;
  solver_->encode_groups(block, tensor.spec.width, {grid_.inverse.data(), grid_.scale.data(), grid_.zero.data()},
                         target, again);
  if (again.nonfinite) return false;
  stats.final_error.add(again.final_error);
  scale_ = grid_.scale;
  zero_ = grid_.second;
  return true;
}

// Zeros that fit the scales as these will be stored.
void TileSolver::refit_zeros(const Job& job, const GroupBlock& block) {
  std::vector<float> stored = scale_;
  if (!grid_.round_scale(job.stored, stored)) return;  // assign() says so
  std::vector<float> inverse(scale_.size());
  std::transform(scale_.begin(), scale_.end(), inverse.begin(), [](float scale) { return 1 / scale; });
  solver_->refit_zeros(block, job.tensor->spec.width, {inverse.data(), scale_.data(), zero_.data()}, stored.data(),
                       zero_.data());
}

// Groups that come with their grids. Where these are stored as they are, codes stay as they are; else they are the
// nearest on what the format makes of the grid. Errors are against the weights that came.
void TileSolver::solve_given(const Job& job, const GroupBlock& block, const SolveTarget& target, SolveStats& stats) {
  const QuantizedTensor& tensor = *job.tensor;
  given_.assign(block, target.group_stride, target.element_stride);
  HALFQUAD_REQUIRE(given_.finite, kBadInput,
                   fmt::format("layer {}: its scales and zeros make a NaN or an infinity", quoted(tensor.module)));
  search_where_not_given(job, target);
  const bool rows = tensor.packer != nullptr;
  if (!grid_.adopt(rows ? tensor.packer->form(tensor.spec) : GridForm{}, rows ? tensor.spec.zeros : ZeroKind::kFloat,
                   job.stored, scale_.data(), zero_.data(), scale_.size())) {
    throw_unstorable(job, "scale or what is stored beside it");
  }
  const auto is_same = [&](std::size_t group) {
    return grid_.scale[group] == given_.scale[group] && grid_.zero[group] == given_.zero[group];
  };
  std::size_t same = 0;
  for (std::size_t group = 0; group < scale_.size(); ++group) same += is_same(group) ? 1U : 0U;
  if (same < scale_.size()) {
    SolveStats unused;
    solver_->encode_groups(given_.block(), tensor.spec.width,
                           {grid_.inverse.data(), grid_.scale.data(), grid_.zero.data()}, target, unused);
  }
  for (std::size_t group = 0; group < scale_.size(); ++group) {
    if (is_same(group)) given_.copy_codes(static_cast<std::int64_t>(group), target.codes);
  }
  solver_->measure(given_.block(), {target.codes, grid_.scale.data(), grid_.zero.data()}, stats.final_error);
  scale_ = grid_.scale;
  zero_ = grid_.second;
}

// Fills scale_ and zero_: with the given grids, and with the solver's where the format has no such zero.
void TileSolver::search_where_not_given(const Job& job, const SolveTarget& target) {
  const QuantSpec& spec = job.tensor->spec;
  scale_ = given_.scale;
  zero_ = given_.zero;
  std::vector<std::size_t> missing;
  for (std::size_t group = 0; group < scale_.size(); ++group) {
    const auto zero = given_.zero_for(static_cast<std::int64_t>(group), spec.width, spec.zeros);
    if (zero) zero_[group] = *zero;
    if (!zero) missing.push_back(group);
  }
  if (missing.empty()) return;
  std::vector<float> scale(scale_.size());
  std::vector<float> zero(scale_.size());
  SolveRequest request = request_for(job);
  request.record = RecordErrors::kNo;
  request.finish = Finish::kGridOnly;
  SolveTarget searched = target;
  searched.scale = scale.data();
  searched.zero = zero.data();
  SolveStats unused;
  solver_->solve(given_.block(), request, searched, unused);
  for (const std::size_t group : missing) {
    scale_[group] = scale[group];
    zero_[group] = zero[group];
  }
}

bool TileSolver::solve_block(const Job& job, const GroupBlock& block, const SolveTarget& target, SolveStats& stats) {
  if (job.tensor->given) {
    solve_given(job, block, target, stats);
    return true;
  }
  const QuantSpec& spec = job.tensor->spec;
  if (job.grid != nullptr) {
    solver_->encode(block, spec.width, *job.grid, job.stored, target, stats);
    return !stats.nonfinite;
  }
  scale_.resize(static_cast<std::size_t>(block.groups));
  zero_.resize(static_cast<std::size_t>(block.groups));
  SolveRequest request = request_for(job);
  if (job.tensor->encodes_stored()) request.finish = Finish::kGridOnly;  // codes come with the stored grids
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
    throw_unstorable(job, scales_fit ? "zero" : "scale");
  }
  encode_from_f32(scale_.data(), job.stored, groups, scale);
  encode_from_f32(zero_.data(), job.stored, groups, zero);
}

void TileSolver::add_columns(const QuantizedTensor& tensor, std::int64_t tile, const TileSource& source,
                             ColumnMoments& columns) {
  const TileGeometry& tiles = tensor.tiles;
  const std::int64_t elems = tiles.grouped().cols;
  for (std::size_t slab = 0; slab < source.slabs.size(); ++slab) {
    if (source.slabs[slab] == nullptr) continue;
    const TileGeometry::RowRange groups =
        tiles.slab_rows(static_cast<int>(slab), tiles.tile_begin(tile), tiles.tile_end(tile));
    columns.add(source.slabs[slab], source.dtype, groups.begin * elems % tensor.cols,
                (groups.end - groups.begin) * elems);
  }
}

void TileSolver::add_levels(const Job& job, const TileSource& source, LevelHistogram& levels) {
  const QuantizedTensor& tensor = *job.tensor;
  const std::int64_t elems = tensor.tiles.grouped().cols;
  const auto cols = static_cast<std::size_t>(tensor.cols);
  const std::span<const float> importance(job.importance, job.importance == nullptr ? 0 : cols);
  for (std::int64_t strip = 0; strip < strip_count(tensor, job.tile); ++strip) {
    const Range range = strip_range(tensor.tiles, job.tile, strip);
    const std::int64_t count = range.size() * elems;
    weights_.resize(static_cast<std::size_t>(count));
    decode_to_f32(source.slabs[0] + range.begin * elems * bytes_of(source.dtype), source.dtype, count, weights_.data());
    levels.add(weights_, elems, importance);
  }
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
