#pragma once

#include "kernels/device.h"
#include "kernels/float_grid.h"
#include "kernels/solver.h"

namespace halfquad::test {

/// Solves some groups of a tile that has a `form` as the host does: finds their grids, rounds these to what is stored,
/// takes codes and errors on that. target.scale and target.zero get what is stored: infinities where it does not fit.
void solve_stored(Solver& solver, const DeviceTile& tile, const GroupBlock& block, const SolveTarget& target,
                  SolveStats& stats);

/// How a tile without one is solved, and with it the grids are found.
[[nodiscard]] SolveRequest request_of(const DeviceTile& tile);

/// As a device does on a floating-point grid. @pre whole rows.
void solve_floats(Solver& solver, const FloatGridSearcher& searcher, const DeviceTile& tile, const GroupBlock& block,
                  const SolveTarget& target, SolveStats& stats);

}  // namespace halfquad::test
