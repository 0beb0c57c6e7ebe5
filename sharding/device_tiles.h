#pragma once

#include <span>

#include "kernels/device.h"
#include "sharding/item_buffer.h"
#include "sharding/tile_solver.h"

namespace halfquad {

/// Whether devices can solve a tensor: its grids are scales and zeros that a solver searches for. Others are the
/// host's.
[[nodiscard]] bool devices_solve(const QuantizedTensor& tensor) noexcept;

/// Bytes that a device leaves of a tile of whole rows, which the host has to pack; 0 for hqq's layout, which it packs.
[[nodiscard]] std::uint64_t unpacked_bytes(const TileSolver::Job& job) noexcept;
/// Where it leaves them, in memory of so many bytes.
[[nodiscard]] TileOutput unpacked_output(const TileSolver::Job& job, std::byte* memory) noexcept;
/// Packs them.
void pack_unpacked(const TileSolver::Job& job, const TileOutput& unpacked, const TileOutput& output);

/// A whole tile as a device takes it: as stored, if it was read so. `job` as for TileSolver::solve(), `output` as well,
/// or where tiles are left unpacked.
[[nodiscard]] DeviceTile device_tile(const TileSolver::Job& job, ItemBuffer& buffer, const TileOutput& output);

/// Puts what a device found out about a whole tile in the place of what the host finds out strip by strip: either can
/// go on from what the other left.
void spread_result(const DeviceResult& result, std::span<StripResult> strips);

}  // namespace halfquad
