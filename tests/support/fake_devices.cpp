#include "tests/support/fake_devices.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "kernels/decode.h"
#include "kernels/fp8.h"
#include "kernels/pack.h"
#include "runtime/check.h"
#include "tests/support/solve_stored.h"

namespace halfquad::test {
namespace {

/// Codes, scales and zeros of one tile, unpacked: rows of all slabs (padding included), or all rows by columns.
struct Unpacked {
  std::vector<std::uint8_t> codes;
  std::vector<float> scale, zero;
};

bool solve_block(Solver& solver, const DeviceTile& tile, const GroupBlock& block, std::uint8_t* codes, Unpacked& out,
                 SolveStats& stats) {
  SolveTarget target{codes, block.group_stride, block.element_stride, nullptr, nullptr};
  if (tile.grid) {
    solver.encode(block, tile.spec.width, *tile.grid, tile.stored, target, stats);
    return !stats.nonfinite;
  }
  const std::size_t before = out.scale.size();
  out.scale.resize(before + static_cast<std::size_t>(block.groups));
  out.zero.resize(out.scale.size());
  target.scale = out.scale.data() + before;
  target.zero = out.zero.data() + before;
  if (tile.spec.grid != FloatGrid::kNone) {
    solve_floats(solver, *make_float_searcher(), tile, block, target, stats);
  } else if (tile.form) {
    solve_stored(solver, tile, block, target, stats);
  } else {
    solver.solve(block, request_of(tile), target, stats);
  }
  return !stats.nonfinite;
}

bool solve_slabs(Solver& solver, const DeviceTile& tile, Unpacked& out, SolveStats& stats) {
  const std::int64_t slab_codes = tile.packed_rows * tile.cols;
  for (std::size_t slab = 0; slab < tile.slabs.size(); ++slab) {
    const DeviceTile::Slab& rows = tile.slabs[slab];
    if (rows.rows == 0) continue;
    const auto cols = static_cast<std::int64_t>(tile.importance.size());
    const ColumnWeights columns{cols == 0 ? nullptr : tile.importance.data(), cols, rows.first_col};
    const GroupBlock block{rows.data, tile.source, rows.rows, tile.cols, tile.cols, 1, columns};
    std::uint8_t* codes = out.codes.data() + static_cast<std::int64_t>(slab) * slab_codes;
    if (!solve_block(solver, tile, block, codes, out, stats)) return false;
  }
  return true;
}

/// As a device leaves its outputs that fails.
void spoil(const DeviceTile& tile) {
  const std::int64_t codes = tile.packed_rows * tile.cols * packed_bytes_of(packing_of(tile));
  std::fill_n(tile.codes, codes, std::byte{0x5A});
  if (tile.grid) return;
  std::int64_t groups = tile.by_columns ? tile.cols : 0;
  for (const DeviceTile::Slab& slab : tile.slabs) groups += tile.by_columns ? 0 : slab.rows;
  std::fill_n(tile.scale, groups * bytes_of(tile.stored), std::byte{0x5A});
  std::fill_n(tile.zero, groups * bytes_of(tile.stored), std::byte{0x5A});
}

bool fits(DType stored, const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(),
                     [stored](float value) { return std::isfinite(round_to(stored, value)); });
}

/// The tile with its weights, which are in `weights`.
DeviceTile decoded(DeviceTile tile, std::vector<std::vector<float>>& weights) {
  const DeviceTile::Coded& coded = *tile.coded;
  for (DeviceTile::Slab& slab : tile.slabs) {
    const std::int64_t count = slab.rows * tile.cols;
    std::vector<float>& out = weights.emplace_back(static_cast<std::size_t>(count));
    decode_fp8_run(slab.data, coded.dtype, {slab.first_row, slab.first_col, count, coded.tensor_cols},
                   {slab.scales.data(), coded.scale_dtype, coded.block_rows, coded.block_cols}, out.data());
    slab.data = reinterpret_cast<const std::byte*>(out.data());
  }
  tile.coded.reset();
  return tile;
}

}  // namespace

DeviceResult solve_tile(Solver& solver, const DeviceTile& tile) {
  if (tile.coded) {
    std::vector<std::vector<float>> weights;
    return solve_tile(solver, decoded(tile, weights));
  }
  const Packing packing = packing_of(tile);
  const std::int64_t slab_codes = tile.packed_rows * tile.cols;
  Unpacked out;
  out.codes.resize(static_cast<std::size_t>(slab_codes * slabs_of(packing)));
  SolveStats stats;
  if (tile.record == RecordErrors::kYes) stats.step_abs.resize(static_cast<std::size_t>(tile.spec.iters));
  bool finite = true;
  if (tile.by_columns) {
    const GroupBlock block{tile.slabs[0].data, tile.source, tile.cols, tile.slabs[0].rows, 1, tile.cols};
    finite = solve_block(solver, tile, block, out.codes.data(), out, stats);
  } else {
    finite = solve_slabs(solver, tile, out, stats);
  }
  DeviceResult result;
  if (!finite) {
    result.outcome = DeviceOutcome::kNonfinite;
    return result;
  }
  if (!fits(tile.stored, out.scale) || !fits(tile.stored, out.zero)) {
    result.outcome = DeviceOutcome::kUnstorable;
    return result;
  }
  std::vector<const std::uint8_t*> slabs;
  for (int slab = 0; slab < slabs_of(packing); ++slab) slabs.push_back(out.codes.data() + slab * slab_codes);
  pack_codes(packing, slabs, slab_codes, tile.codes);
  const auto groups = static_cast<std::int64_t>(out.scale.size());
  if (groups > 0) encode_from_f32(out.scale.data(), tile.stored, groups, tile.scale);
  if (groups > 0) encode_from_f32(out.zero.data(), tile.stored, groups, tile.zero);
  result.error = stats.final_error;
  result.settled = stats.settled;
  result.step_abs = std::move(stats.step_abs);
  return result;
}

class FakeDevices::FakeSolver final : public DeviceSolver {
 public:
  FakeSolver(FakeDevices& module, int index, std::uint64_t memory_bytes)
      : module_(module), index_(index), memory_bytes_(memory_bytes), solver_(make_simd_solver()) {}
  [[nodiscard]] std::uint64_t memory_bytes() const noexcept override { return memory_bytes_; }
  [[nodiscard]] std::string name() const override { return fmt::format("fake:{}", index_); }
  std::vector<DeviceResult> solve(std::span<const DeviceTile> tiles) override {
    return module_.solve(index_, *solver_, tiles);
  }

 private:
  FakeDevices& module_;
  const int index_;
  const std::uint64_t memory_bytes_;
  std::unique_ptr<Solver> solver_;
};

std::vector<DeviceInfo> FakeDevices::devices() {
  std::vector<DeviceInfo> devices;
  for (int i = 0; i < count_; ++i) {
    DeviceInfo info;
    info.index = i;
    info.name = fmt::format("Fake {}", i);
    info.bus_id = fmt::format("ffff:{:02x}:00.0", i);
    info.memory_bytes = info.free_bytes = std::uint64_t{1} << 30U;
    devices.push_back(info);
  }
  return devices;
}

std::unique_ptr<DeviceSolver> FakeDevices::make_solver(int index, std::uint64_t memory_bytes) {
  if (faults_.before_open) faults_.before_open();
  const std::lock_guard lock(mutex_);
  const auto most = faults_.most_solvers.find(index);
  HALFQUAD_REQUIRE(most == faults_.most_solvers.end() || solvers_[index] < most->second, kOutOfMemory,
                   fmt::format("fake:{} has no memory left", index));
  ++solvers_[index];
  budgets_.push_back(memory_bytes);
  return std::make_unique<FakeSolver>(*this, index, std::min(memory_bytes, faults_.most_memory));
}

std::vector<DeviceResult> FakeDevices::solve(int index, Solver& solver, std::span<const DeviceTile> tiles) {
  const bool lost = [&] {
    const std::lock_guard lock(mutex_);
    const int call = ++calls_[index];
    if (call > 1) largest_batch_ = std::max(largest_batch_, tiles.size());
    const auto at = faults_.lost_at.find(index);
    return at != faults_.lost_at.end() && call >= at->second;
  }();
  std::vector<DeviceResult> results;
  for (const DeviceTile& tile : tiles) {
    results.push_back(solve_tile(solver, tile));
    if (tile.coded) ++coded_tiles_;
    if (faults_.wrong.contains(index)) tile.codes[0] ^= std::byte{1};
    if (lost) spoil(tile);
  }
  HALFQUAD_REQUIRE(!lost, kDevice, fmt::format("fake:{} fell off the bus", index));
  return results;
}

int FakeDevices::solve_calls(int index) {
  const std::lock_guard lock(mutex_);
  return calls_[index];
}

std::vector<std::uint64_t> FakeDevices::budgets() {
  const std::lock_guard lock(mutex_);
  return budgets_;
}

bool FakeDevices::lock_pages(int /*index*/, std::span<std::byte> memory) noexcept {
  if (faults_.no_page_locks) return false;
  locked_bytes_ += memory.size();
  most_locked_bytes_ = std::max<std::uint64_t>(most_locked_bytes_, locked_bytes_);
  return true;
}

void FakeDevices::unlock_pages(int /*index*/, std::span<std::byte> memory) noexcept { locked_bytes_ -= memory.size(); }

std::vector<std::byte> FakeDevices::link_identity(int index) {
  HALFQUAD_REQUIRE(links_ == FakeLinks::kYes, kUsage, "these fake devices have no links");
  std::vector<std::byte> identity(sizeof(FakeDevices*) + sizeof index);
  const FakeDevices* const self = this;
  std::memcpy(identity.data(), &self, sizeof self);
  std::memcpy(identity.data() + sizeof self, &index, sizeof index);
  return identity;
}

AcceptedLink FakeDevices::accept_link(int index, std::span<const std::byte> identity) {
  const std::vector<std::byte> ours = link_identity(index);
  HALFQUAD_REQUIRE(!std::equal(identity.begin(), identity.end(), ours.begin(), ours.end()), kUsage,
                   "a fake device is not linked to itself");
  return accept_fake_link(faults_.links);
}

std::unique_ptr<DeviceLink> FakeDevices::join_link(int /*index*/, std::span<const std::byte> invitation) {
  return join_fake_link(invitation, faults_.links);
}

std::uint64_t FakeDevices::wanted_bytes(std::int64_t tile_weights) const noexcept {
  return static_cast<std::uint64_t>(tile_weights) * 8;
}

}  // namespace halfquad::test
