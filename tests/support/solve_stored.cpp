#include "tests/support/solve_stored.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/decode.h"

namespace halfquad::test {

SolveRequest request_of(const DeviceTile& tile) {
  SolveRequest request;
  request.spec = tile.spec;
  request.iters = tile.iters;
  request.stored = tile.stored;
  request.record = tile.record;
  return request;
}

void solve_stored(Solver& solver, const DeviceTile& tile, const GroupBlock& block, const SolveTarget& target,
                  SolveStats& stats) {
  const auto count = static_cast<std::size_t>(block.groups);
  SolveRequest request = request_of(tile);
  request.finish = Finish::kGridOnly;
  solver.solve(block, request, target, stats);
  if (stats.nonfinite) return;

  std::vector<float> stored(count), zero(count), inverse(count);
  for (std::size_t g = 0; g < count; ++g) {
    stored[g] = std::max(round_to(tile.stored, target.scale[g]), 0x1p-24F);
    inverse[g] = 1 / target.scale[g];
  }
  if (tile.spec.solver == SolverKind::kAls && tile.spec.zeros == ZeroKind::kFloat) {
    solver.refit_zeros(block, tile.spec.width, {inverse.data(), target.scale, target.zero}, stored.data(), target.zero);
  }
  const float middle = tile.form->middle;
  for (std::size_t g = 0; g < count; ++g) {
    float second = target.zero[g];
    if (tile.form->offset) second = middle == 0 ? -target.scale[g] * second : (middle - second) * target.scale[g];
    target.zero[g] = round_to(tile.stored, second);
    target.scale[g] = stored[g];
    zero[g] = tile.form->offset ? middle - target.zero[g] / stored[g] : target.zero[g];
    inverse[g] = 1 / stored[g];
  }
  solver.encode_groups(block, tile.spec.width, {inverse.data(), stored.data(), zero.data()}, target, stats);
}

void solve_floats(Solver& solver, const FloatGridSearcher& searcher, const DeviceTile& tile, const GroupBlock& block,
                  const SolveTarget& target, SolveStats& stats) {
  const std::int64_t count = block.groups * block.group_elems;
  std::vector<float> weights(static_cast<std::size_t>(count));
  decode_to_f32(block.data, block.dtype, count, weights.data());
  stats.nonfinite = find_nonfinite(block.data, block.dtype, count).has_value();
  if (stats.nonfinite) return;
  searcher.run({.grid = tile.spec.grid,
                .tensor_scale = tile.tensor_scale,
                .weights = weights.data(),
                .groups = block.groups,
                .importance = block.importance.h,
                .cols = block.importance.cols},
               tile.spec.solver == SolverKind::kRtn ? ScaleSearch::kLargest : ScaleSearch::kBest,
               {target.codes, target.scale});
  std::fill_n(target.zero, block.groups, static_cast<float>(kFloatCodeZero));
  solver.measure(block, {target.codes, target.scale, target.zero}, stats.final_error);
}

}  // namespace halfquad::test
