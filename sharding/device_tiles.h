#pragma once

#include <span>

#include "kernels/device.h"
#include "sharding/tile_solver.h"

namespace halfquad {

/// A whole tile as a device takes it. `job`, `source` and `output` as for TileSolver::solve().
[[nodiscard]] DeviceTile device_tile(const TileSolver::Job& job, const TileSource& source, const TileOutput& output);

/// Puts what a device found out about a whole tile in the place of what the host finds out strip by strip: either can
/// go on from what the other left.
void spread_result(const DeviceResult& result, std::span<StripResult> strips);

}  // namespace halfquad
