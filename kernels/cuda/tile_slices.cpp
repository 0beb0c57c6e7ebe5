#include "kernels/cuda/tile_slices.h"

#include <algorithm>
#include <limits>

#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"

namespace halfquad::cuda {
namespace {

// A tile that is cut is cut into whole blocks of the kernels where it can be.
constexpr std::int64_t kWholeUnits = 128;

// What a slice takes beside what grows with it: its description, and the rounding up of each of its buffers.
constexpr std::uint64_t kSliceBytes = sizeof(Part) + (kMostSlabs + 4) * kAlignment;
constexpr std::uint64_t kCodedBytes = kMostSlabs * (sizeof(CodedRun) + kAlignment);

}  // namespace

Finder finder_of(const DeviceTile& tile) noexcept {
  const QuantSpec& spec = tile.spec;
  if (spec.grid != FloatGrid::kNone) return Finder::kFloats;
  if (tile.grid || !spec.channel_wise) return Finder::kSteps;
  if (spec.zeros != ZeroKind::kFloat) return spec.weighted() ? Finder::kWeighedWhole : Finder::kWhole;
  return spec.solver == SolverKind::kAls ? Finder::kAls : Finder::kSteps;
}

TileShape::TileShape(const DeviceTile& tile) {
  const Packing packing = packing_of(tile);
  slabs = slabs_of(packing);
  units = tile.by_columns ? tile.cols : tile.packed_rows;
  packed_rows = tile.packed_rows;
  source_bytes = static_cast<std::uint64_t>(halfquad::bytes_of(tile.source));
  stored_bytes = static_cast<std::uint64_t>(halfquad::bytes_of(tile.stored));
  packed_bytes = static_cast<std::uint64_t>(packed_bytes_of(packing));
  const std::int64_t group_elems = tile.by_columns ? tile.slabs.at(0).rows : tile.cols;
  HALFQUAD_REQUIRE(group_elems <= std::numeric_limits<std::int32_t>::max(), kOutOfMemory,
                   "a group of " + std::to_string(group_elems) + " weights is too long for a device");
  kernel = choose_kernel(
      {.finder = finder_of(tile), .by_columns = tile.by_columns, .one_column = tile.cols == 1, .elems = group_elems});

  const std::uint64_t groups = tile.by_columns ? 1 : static_cast<std::uint64_t>(slabs);
  const auto codes = static_cast<std::uint64_t>(tile.by_columns ? tile.packed_rows : tile.cols);  // packed, of a unit
  each_ = groups * static_cast<std::uint64_t>(group_elems) * source_bytes + codes * packed_bytes +
          2 * groups * stored_bytes;
  if (!kernel.packs()) each_ += codes * static_cast<std::uint64_t>(slabs);
  fixed_ = kSliceBytes;
  if (tile.coded) {
    each_ += groups * static_cast<std::uint64_t>(group_elems);
    fixed_ += kCodedBytes;
  }
}

std::uint64_t TileShape::bytes_of(std::int64_t count) const noexcept {
  return fixed_ + each_ * static_cast<std::uint64_t>(count);
}

std::int64_t TileShape::units_in(std::uint64_t bytes) const noexcept {
  return bytes < fixed_ ? 0 : static_cast<std::int64_t>((bytes - fixed_) / each_);
}

std::vector<std::vector<TileSlice>> plan_rounds(std::span<const DeviceTile> tiles, std::uint64_t bytes) {
  std::vector<std::vector<TileSlice>> rounds;
  std::uint64_t left = 0;
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    const TileShape shape(tiles[i]);
    for (std::int64_t begin = 0; begin < shape.units;) {
      const std::int64_t rest = shape.units - begin;
      if (shape.bytes_of(rest) > left && (left < bytes || rounds.empty())) {
        rounds.emplace_back();
        left = bytes;
      }
      std::int64_t count = std::min(rest, shape.units_in(left));
      HALFQUAD_REQUIRE(count > 0, kOutOfMemory,
                       "one " + std::string(tiles[i].by_columns ? "column" : "packed row") + " of a tile takes " +
                           human_bytes(shape.bytes_of(1)) + " of device memory, and there are " + human_bytes(bytes));
      if (count < rest && count > kWholeUnits) count = count / kWholeUnits * kWholeUnits;
      rounds.back().push_back({i, begin, begin + count});
      left -= shape.bytes_of(count);
      begin += count;
    }
  }
  return rounds;
}

}  // namespace halfquad::cuda
