#include "kernels/cuda/batch.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/als_search.h"
#include "kernels/float_grid.h"
#include "kernels/integer_zero.h"
#include "kernels/power.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/cuda/check.h"
#include "runtime/text.h"

namespace halfquad::cuda {
namespace {

std::uint64_t aligned(std::uint64_t bytes) { return round_up(bytes, kAlignment); }

std::uint64_t unsigned_of(std::int64_t value) { return static_cast<std::uint64_t>(value); }

std::int64_t steps_of(const DeviceTile& tile) { return tile.spec.optimizes() && !tile.grid ? tile.iters : 0; }

std::uint64_t sums_bytes_of(const DeviceTile& tile) {
  const std::int64_t recorded = tile.record == RecordErrors::kYes ? steps_of(tile) : 0;
  return sizeof(TileSums) + unsigned_of(recorded) * kDigits * sizeof(Digit);
}

/// Whether it is searched from a table of parts of the range.
bool has_starts(const DeviceTile& tile) {
  const Finder finder = finder_of(tile);
  return finder == Finder::kAls || finder == Finder::kWeighedWhole;
}

std::uint64_t starts_bytes_of(const DeviceTile& tile) {
  if (finder_of(tile) == Finder::kFloats) return aligned(sizeof(FloatTable));
  return has_starts(tile) ? aligned(unsigned_of(tile.spec.starts) * sizeof(float)) : 0;
}

std::uint64_t steps_bytes_of(const DeviceTile& tile) {
  return aligned(unsigned_of(steps_of(tile)) * sizeof(StepValues));
}

/// Where in a tile's table the scales of a slab are: behind those of the slabs before, the last of all.
std::uint64_t scales_at(const DeviceTile& tile, std::size_t slab) {
  std::uint64_t at = steps_bytes_of(tile) + starts_bytes_of(tile) + aligned(tile.importance.size_bytes());
  for (std::size_t i = 0; i < slab; ++i) at += aligned(tile.slabs[i].scales.size());
  return at;
}

std::uint64_t table_bytes_of(const DeviceTile& tile) { return scales_at(tile, tile.slabs.size()); }

Float float_of(DType dtype) {
  if (dtype == DType::kF32) return Float::kF32;
  if (dtype == DType::kF16) return Float::kF16;
  if (dtype == DType::kBF16) return Float::kBF16;
  HALFQUAD_REQUIRE(dtype == DType::kF64, kInternal, "a device cannot take " + std::string(name_of(dtype)));
  return Float::kF64;
}

Code code_of(DType dtype) {
  if (dtype == DType::kF8E4M3) return Code::kE4M3;
  if (dtype == DType::kF8E5M2) return Code::kE5M2;
  HALFQUAD_REQUIRE(dtype == DType::kI8, kInternal, "a device cannot decode " + std::string(name_of(dtype)));
  return Code::kI8;
}

CodeScale code_scale_of(DType dtype) {
  if (dtype == DType::kF32) return CodeScale::kF32;
  if (dtype == DType::kF16) return CodeScale::kF16;
  if (dtype == DType::kBF16) return CodeScale::kBF16;
  HALFQUAD_REQUIRE(dtype == DType::kF8E8M0, kInternal, "a device cannot scale by " + std::string(name_of(dtype)));
  return CodeScale::kE8M0;
}

Divisor divisor_of(std::int64_t value) {
  const auto divisor = static_cast<std::uint32_t>(value);
  const auto shift = 31U + static_cast<unsigned>(std::bit_width(divisor - 1));
  const std::uint64_t multiplier = ceil_div(std::uint64_t{1} << shift, std::uint64_t{divisor});
  return {divisor, static_cast<unsigned>(multiplier), shift};
}

bool decoded_alike(const DeviceTile& a, const DeviceTile& b) {
  if (!a.coded || !b.coded) return a.coded.has_value() == b.coded.has_value();
  return a.coded->dtype == b.coded->dtype && a.coded->scale_dtype == b.coded->scale_dtype;
}

bool solved_alike(const DeviceTile& a, const DeviceTile& b) {
  return a.spec == b.spec && a.source == b.source && a.stored == b.stored && a.iters == b.iters &&
         a.record == b.record && a.grid.has_value() == b.grid.has_value() && a.by_columns == b.by_columns &&
         a.form == b.form && a.unpacked == b.unpacked && a.tensor_scale == b.tensor_scale && decoded_alike(a, b);
}

/// Rows of slab `slab` that lie in packed rows [begin, end) of the tile.
struct RowRange {
  std::int64_t begin = 0, end = 0;
};
RowRange rows_in(const DeviceTile& tile, std::size_t slab, const TileSlice& slice) {
  const std::int64_t rows = slab < tile.slabs.size() ? tile.slabs[slab].rows : 0;
  return {std::min(slice.begin, rows), std::min(slice.end, rows)};
}

/// A block of rows on the host and one on the device, each with its own distance between rows.
struct Block {
  void* to = nullptr;
  std::uint64_t to_pitch = 0;
  const void* from = nullptr;
  std::uint64_t from_pitch = 0;
  std::uint64_t row_bytes = 0, rows = 0;
};
void copy_block(const Block& b, cudaMemcpyKind kind, cudaStream_t stream) {
  if (b.rows == 0 || b.row_bytes == 0) return;
  if (b.to_pitch == b.row_bytes && b.from_pitch == b.row_bytes) {
    HALFQUAD_CHECK_CUDA(cudaMemcpyAsync(b.to, b.from, b.row_bytes * b.rows, kind, stream));
  } else {
    HALFQUAD_CHECK_CUDA(cudaMemcpy2DAsync(b.to, b.to_pitch, b.from, b.from_pitch, b.row_bytes, b.rows, kind, stream));
  }
}

/// Consecutive bytes.
Block bytes_block(void* to, const void* from, std::uint64_t bytes) { return {to, bytes, from, bytes, bytes, 1}; }

WholeValues whole_values_of(const DeviceTile& tile) {
  static_assert(kWholeStarts == IntegerZeroSearch::kStarts && kMostCandidates >= IntegerZeroSearch::kMostKept &&
                kMostCandidates >= AlsSearch::kKept);
  const IntegerZeroSearch search(tile.spec, tile.cols);
  WholeValues values{};
  values.symmetric = search.symmetric();
  values.searches = search.searches();
  values.fixed_zero = static_cast<float>(search.fixed_zero());
  values.fraction_bits = search.fraction_bits();
  values.rounds = search.rounds();
  values.kept = search.kept(0);
  for (int part = 0; part < kWholeStarts; ++part) {
    values.parts[part] = search.part(part);
    values.multipliers[part] = search.multiplier(part);
    values.zeros[part] = search.zeros(part);
  }
  return values;
}

FloatValues float_values_of(const DeviceTile& tile) {
  const FloatScales scales(tile.spec.grid, tile.tensor_scale);
  const bool searches = tile.spec.solver != SolverKind::kRtn;
  return {.lowest = scales.lowest,
          .highest = scales.highest,
          .offsets = searches ? static_cast<int>(scales.offsets.size()) : 1,
          .tensor_scale = tile.tensor_scale,
          .e4m3 = tile.spec.grid == FloatGrid::kNvfp4};
}

void write_float_table(const DeviceTile& tile, FloatTable& table) {
  const FloatScales scales(tile.spec.grid, tile.tensor_scale);
  HALFQUAD_REQUIRE(scales.offsets.size() <= std::size(table.offsets), kInternal, "a device has no room for all scales");
  std::copy(scales.scale.begin(), scales.scale.end(), table.scale);
  std::copy(scales.inverse.begin(), scales.inverse.end(), table.inverse);
  std::copy(scales.offsets.begin(), scales.offsets.end(), table.offsets);
}

Cut cut_of(int bits) { return bits == 0 ? Cut{} : Cut{1U << (bits - 1), ~0U << bits}; }

ExactSum sum_of(const Digit* digits) {
  std::array<std::uint64_t, kDigits> uncarried{};
  std::copy_n(digits, kDigits, uncarried.begin());
  return ExactSum::from_digits(ExactSum::from_digits(uncarried).digits());
}

}  // namespace

std::size_t Batch::most_tiles(std::span<const DeviceTile> tiles, std::uint64_t bytes) {
  std::uint64_t taken = 0;
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    taken += sums_bytes_of(tiles[i]) + table_bytes_of(tiles[i]);
    if (taken > bytes / 4 && i > 0) return i;
  }
  return tiles.size();
}

Batch::Batch(std::span<const DeviceTile> tiles, const BatchPlace& place) : tiles_(tiles), place_(place) {
  place_tables();
  HALFQUAD_REQUIRE(tables_bytes_ < place_.bytes, kOutOfMemory,
                   "the error sums and column weights of one tile take " + human_bytes(tables_bytes_) +
                       " of device memory, and there are " + human_bytes(place_.bytes));
  std::uint64_t pinned_bytes = tables_bytes_;
  for (const std::vector<TileSlice>& slices : plan_rounds(tiles_, place_.bytes - tables_bytes_)) {
    rounds_.push_back(place_round(slices, pinned_bytes));
  }
  pinned_ = place_.pinned->reserve(pinned_bytes);
  write_tables();
}

void Batch::place_tables() {
  for (const DeviceTile& tile : tiles_) {
    sums_at_.push_back(sums_bytes_);
    sums_bytes_ += sums_bytes_of(tile);
  }
  tables_bytes_ = aligned(sums_bytes_);
  for (const DeviceTile& tile : tiles_) {
    table_at_.push_back(tables_bytes_);
    tables_bytes_ += table_bytes_of(tile);
  }
}

Batch::Round Batch::place_round(std::span<const TileSlice> slices, std::uint64_t& pinned_at) {
  Round round;
  std::uint64_t at = tables_bytes_;
  for (const TileSlice& slice : slices) {
    Launch& to = launch_for(round, slice.tile);
    Part part = place_part(slice, at);
    part.first_block = to.launch.blocks;
    to.launch.blocks += blocks_of(to.kernel, part, to.launch.slabs);
    to.parts.push_back({slice, part, to.runs.size()});
    if (tiles_[slice.tile].coded) place_runs(to.parts.back(), to, at);
  }
  for (Launch& launch : round) {
    const std::uint64_t parts_bytes = launch.parts.size() * sizeof(Part);
    launch.launch.part_count = static_cast<int>(launch.parts.size());
    launch.launch.parts = reinterpret_cast<const Part*>(place_.memory + at);
    launch.decode.run_count = static_cast<int>(launch.runs.size());
    launch.decode.runs = reinterpret_cast<const CodedRun*>(place_.memory + at + parts_bytes);
    at += launch.table_bytes();
    launch.tables_at = pinned_at;
    pinned_at += launch.table_bytes();
  }
  HALFQUAD_REQUIRE(at <= place_.bytes, kInternal, "a round of tiles was planned larger than the device's memory");
  return round;
}

Batch::Launch& Batch::launch_for(Round& round, std::size_t tile) const {
  const KernelChoice kernel = TileShape(tiles_[tile]).kernel;
  for (Launch& launch : round) {
    const bool same_kernel = launch.kernel.kind == kernel.kind && launch.kernel.group_elems == kernel.group_elems;
    if (same_kernel && solved_alike(tiles_[launch.like], tiles_[tile])) return launch;
  }
  round.push_back({.like = tile, .kernel = kernel, .launch = describe(tile)});
  return round.back();
}

SolveLaunch Batch::describe(std::size_t index) const {
  const DeviceTile& tile = tiles_[index];
  const Packing packing = packing_of(tile);
  const PowerExponent exponent = power_exponent(tile.spec.lp_norm);
  SolveLaunch launch{};
  launch.steps = reinterpret_cast<const StepValues*>(place_.memory + table_at_[index]);
  launch.starts = reinterpret_cast<const float*>(place_.memory + table_at_[index]);
  launch.start_count = tile.spec.starts;
  launch.rounds = tile.spec.rounds;
  launch.cut_h = cut_of(AlsSearch::cut_bits_of_h(tile.spec.width));
  launch.cut_hd = cut_of(AlsSearch::cut_bits_of_p(tile.spec.width));
  if (tile.spec.zeros != ZeroKind::kFloat) launch.whole = whole_values_of(tile);
  launch.float_table = reinterpret_cast<const FloatTable*>(place_.memory + table_at_[index]);
  if (tile.spec.grid != FloatGrid::kNone) launch.floats = float_values_of(tile);
  launch.iters = static_cast<int>(steps_of(tile));
  launch.record = tile.record == RecordErrors::kYes;
  launch.given_grid = tile.grid.has_value();
  launch.round_zero = tile.spec.round_zero;
  launch.exit_at_fixed_point = place_.exit == FixedPointExit::kOn;
  launch.largest_code = static_cast<float>(qmax(tile.spec.width));
  launch.slabs = slabs_of(packing);
  launch.slab_bits = packing == Packing::k3Bit32 ? 3 : 8 / launch.slabs;
  launch.wide = packed_bytes_of(packing) == 4;
  launch.source = float_of(tile.source);
  launch.stored = float_of(tile.stored);
  if (tile.form) launch.form = tile.form->offset ? Form::kOffset : Form::kZero;
  launch.middle = tile.form ? tile.form->middle : 0;
  launch.constant_power = tile.spec.lp_norm == 1;
  launch.c = exponent.c;
  launch.chi = exponent.chi;
  launch.clo = exponent.clo;
  return launch;
}

Part Batch::place_part(const TileSlice& slice, std::uint64_t& at) const {
  const DeviceTile& tile = tiles_[slice.tile];
  const TileShape shape(tile);
  const auto take = [&](std::uint64_t bytes) {
    std::byte* const here = place_.memory + at;
    at += aligned(bytes);
    return reinterpret_cast<unsigned char*>(here);
  };
  Part part{};
  const std::int64_t units = slice.end - slice.begin;
  part.cols = tile.by_columns ? units : tile.cols;
  part.packed_rows = tile.by_columns ? tile.packed_rows : units;
  std::int64_t groups = 0;
  for (std::size_t slab = 0; slab < tile.slabs.size(); ++slab) {
    const RowRange rows =
        tile.by_columns ? RowRange{0, slab == 0 ? tile.slabs[0].rows : 0} : rows_in(tile, slab, slice);
    part.rows[slab] = rows.end - rows.begin;
    part.first_group[slab] = groups;
    if (!tile.importance.empty()) {
      const auto cols = static_cast<std::int64_t>(tile.importance.size());
      part.first_col[slab] = (tile.slabs[slab].first_col + rows.begin * tile.cols) % cols;
    }
    groups += rows.end - rows.begin;
    part.source[slab] = take(unsigned_of(part.rows[slab] * part.cols) * shape.source_bytes);
  }
  if (tile.by_columns) groups = units;
  const std::uint64_t elements = unsigned_of(part.packed_rows * part.cols);
  part.codes = take(elements * shape.packed_bytes);
  part.scale = take(unsigned_of(groups) * shape.stored_bytes);
  part.zero = take(unsigned_of(groups) * shape.stored_bytes);
  if (!shape.kernel.packs()) part.unpacked = take(elements * unsigned_of(shape.slabs));
  part.sums = reinterpret_cast<TileSums*>(place_.memory + sums_at_[slice.tile]);
  part.step_abs = reinterpret_cast<Digit*>(part.sums + 1);
  if (!tile.importance.empty()) {
    part.importance = reinterpret_cast<const float*>(place_.memory + table_at_[slice.tile] + starts_bytes_of(tile));
    part.tensor_cols = static_cast<std::int64_t>(tile.importance.size());
  }
  if (tile.grid) part.grid = {tile.grid->inverse_scale, tile.grid->scale, tile.grid->zero};
  return part;
}

void Batch::place_runs(const Placed& placed, Launch& launch, std::uint64_t& at) const {
  const DeviceTile& tile = tiles_[placed.slice.tile];
  const DeviceTile::Coded& coded = *tile.coded;
  launch.decode.code = code_of(coded.dtype);
  launch.decode.scale = code_scale_of(coded.scale_dtype);
  for (std::size_t slab = 0; slab < tile.slabs.size(); ++slab) {
    const std::int64_t count = placed.part.rows[slab] * tile.cols;
    if (count == 0) continue;
    const DeviceTile::Slab& from = tile.slabs[slab];
    const std::int64_t before = from.first_col + rows_in(tile, slab, placed.slice).begin * tile.cols;
    CodedRun run{};
    run.codes = reinterpret_cast<const unsigned char*>(place_.memory + at);
    run.scales =
        reinterpret_cast<const unsigned char*>(place_.memory + table_at_[placed.slice.tile] + scales_at(tile, slab));
    run.weights = reinterpret_cast<float*>(const_cast<unsigned char*>(placed.part.source[slab]));
    run.first_block = launch.decode.blocks;
    run.count = static_cast<unsigned>(count);
    run.first_row = static_cast<unsigned>(from.first_row % coded.block_rows + before / coded.tensor_cols);
    run.first_col = static_cast<unsigned>(before % coded.tensor_cols);
    run.cols = divisor_of(coded.tensor_cols);
    run.block_rows = divisor_of(coded.block_rows);
    run.block_cols = divisor_of(coded.block_cols);
    run.line_scales = static_cast<unsigned>(ceil_div(coded.tensor_cols, coded.block_cols));
    launch.decode.blocks += ceil_div<std::int64_t>(count, kDecodedOfBlock);
    launch.runs.push_back(run);
    at += aligned(unsigned_of(count));
  }
}

void Batch::write_tables() const {
  for (std::size_t i = 0; i < tiles_.size(); ++i) write_table(i);
  for (const Round& round : rounds_) {
    for (const Launch& launch : round) {
      auto* const parts = reinterpret_cast<Part*>(pinned_ + launch.tables_at);
      for (std::size_t i = 0; i < launch.parts.size(); ++i) parts[i] = launch.parts[i].part;
      std::copy(launch.runs.begin(), launch.runs.end(), reinterpret_cast<CodedRun*>(parts + launch.parts.size()));
    }
  }
}

void Batch::write_table(std::size_t index) const {
  const DeviceTile& tile = tiles_[index];
  std::byte* const table = pinned_ + table_at_[index];
  auto* const steps = reinterpret_cast<StepValues*>(table);
  for (int t = 0; t < steps_of(tile); ++t) {
    const StepConstants step = step_constants(tile.spec, t);
    steps[t] = {step.inv_beta, step.inert_threshold};
  }
  for (std::size_t slab = 0; slab < tile.slabs.size(); ++slab) {
    const std::span<const std::byte> scales = tile.slabs[slab].scales;
    std::copy(scales.begin(), scales.end(), table + scales_at(tile, slab));
  }
  if (finder_of(tile) == Finder::kFloats) write_float_table(tile, *reinterpret_cast<FloatTable*>(table));
  if (has_starts(tile)) {
    auto* const starts = reinterpret_cast<float*>(table);
    for (int i = 0; i < tile.spec.starts; ++i) starts[i] = AlsSearch::part(i, tile.spec.starts);
  }
  std::copy(tile.importance.begin(), tile.importance.end(), reinterpret_cast<float*>(table + starts_bytes_of(tile)));
}

void Batch::enqueue() const {
  const cudaStream_t stream = place_.stream;
  HALFQUAD_CHECK_CUDA(cudaMemsetAsync(place_.memory, 0, sums_bytes_, stream));
  const std::uint64_t steps_at = aligned(sums_bytes_);
  copy_block(bytes_block(place_.memory + steps_at, pinned_ + steps_at, tables_bytes_ - steps_at),
             cudaMemcpyHostToDevice, stream);
  for (const Round& round : rounds_) {
    for (const Launch& launch : round) {
      copy_block(bytes_block(const_cast<Part*>(launch.launch.parts), pinned_ + launch.tables_at, launch.table_bytes()),
                 cudaMemcpyHostToDevice, stream);
      for (const Placed& placed : launch.parts) copy_in(launch, placed);
      if (launch.decode.blocks > 0) HALFQUAD_CHECK_CUDA(launch_decode(launch.decode, stream));
      HALFQUAD_CHECK_CUDA(launch_solve(launch.kernel, launch.launch, stream));
    }
    for (const Launch& launch : round) {
      for (const Placed& placed : launch.parts) copy_out(placed);
    }
  }
  HALFQUAD_CHECK_CUDA(cudaMemcpyAsync(pinned_, place_.memory, sums_bytes_, cudaMemcpyDeviceToHost, stream));
}

void Batch::copy_in(const Launch& launch, const Placed& placed) const {
  const DeviceTile& tile = tiles_[placed.slice.tile];
  if (tile.coded) return copy_codes(launch, placed);
  const Part& part = placed.part;
  const auto element = unsigned_of(bytes_of(tile.source));
  const std::uint64_t pitch = unsigned_of(tile.cols) * element;
  for (std::size_t slab = 0; slab < tile.slabs.size(); ++slab) {
    const std::uint64_t width = unsigned_of(part.cols) * element;
    const std::byte* from = tile.slabs[slab].data;
    from += tile.by_columns ? unsigned_of(placed.slice.begin) * element
                            : unsigned_of(rows_in(tile, slab, placed.slice).begin) * pitch;
    copy_block({const_cast<unsigned char*>(part.source[slab]), width, from, pitch, width, unsigned_of(part.rows[slab])},
               cudaMemcpyHostToDevice, place_.stream);
  }
}

void Batch::copy_codes(const Launch& launch, const Placed& placed) const {
  const DeviceTile& tile = tiles_[placed.slice.tile];
  std::size_t run = placed.first_run;
  for (std::size_t slab = 0; slab < tile.slabs.size(); ++slab) {
    if (placed.part.rows[slab] == 0) continue;
    const CodedRun& to = launch.runs[run++];
    const std::byte* const from = tile.slabs[slab].data + rows_in(tile, slab, placed.slice).begin * tile.cols;
    copy_block(bytes_block(const_cast<unsigned char*>(to.codes), from, to.count), cudaMemcpyHostToDevice,
               place_.stream);
  }
}

void Batch::copy_out(const Placed& placed) const {
  const DeviceTile& tile = tiles_[placed.slice.tile];
  const TileSlice& slice = placed.slice;
  const Part& part = placed.part;
  const TileShape shape(tile);
  const auto copy = [&](const Block& block) { copy_block(block, cudaMemcpyDeviceToHost, place_.stream); };
  const std::uint64_t width = unsigned_of(part.cols) * shape.packed_bytes;
  const std::uint64_t pitch = unsigned_of(tile.cols) * shape.packed_bytes;
  std::byte* const codes =
      tile.codes + (tile.by_columns ? unsigned_of(slice.begin) * shape.packed_bytes : unsigned_of(slice.begin) * pitch);
  copy({codes, pitch, part.codes, width, width, unsigned_of(part.packed_rows)});
  if (tile.grid) return;

  std::int64_t groups_before = 0;  // of the tile's earlier slabs
  for (std::size_t slab = 0; slab < tile.slabs.size(); ++slab) {
    const RowRange groups = tile.by_columns ? RowRange{slice.begin, slice.end} : rows_in(tile, slab, slice);
    const std::uint64_t to = unsigned_of(groups_before + groups.begin) * shape.stored_bytes;
    const std::uint64_t from = unsigned_of(part.first_group[slab]) * shape.stored_bytes;
    const std::uint64_t bytes = unsigned_of(groups.end - groups.begin) * shape.stored_bytes;
    copy(bytes_block(tile.scale + to, part.scale + from, bytes));
    copy(bytes_block(tile.zero + to, part.zero + from, bytes));
    if (tile.by_columns) return;
    groups_before += tile.slabs[slab].rows;
  }
}

std::vector<DeviceResult> Batch::results() const {
  std::vector<DeviceResult> results;
  for (std::size_t i = 0; i < tiles_.size(); ++i) {
    const auto* const sums = reinterpret_cast<const TileSums*>(pinned_ + sums_at_[i]);
    DeviceResult& result = results.emplace_back();
    if ((sums->met & kMetUnstorable) != 0) result.outcome = DeviceOutcome::kUnstorable;
    if ((sums->met & kMetNonfinite) != 0) result.outcome = DeviceOutcome::kNonfinite;
    result.error = {sum_of(sums->abs),
                    sum_of(sums->square),
                    sum_of(sums->weight2),
                    std::bit_cast<float>(sums->max_abs),
                    sum_of(sums->weighted_square),
                    sum_of(sums->weighted_weight2)};
    result.settled = sums->settled;
    if (tiles_[i].record != RecordErrors::kYes) continue;
    result.step_abs.resize(unsigned_of(tiles_[i].iters));
    const auto* const step_abs = reinterpret_cast<const Digit*>(sums + 1);
    for (std::int64_t t = 0; t < steps_of(tiles_[i]); ++t)
      result.step_abs[unsigned_of(t)] = sum_of(step_abs + t * kDigits);
  }
  return results;
}

}  // namespace halfquad::cuda
