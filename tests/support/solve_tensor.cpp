#include "tests/support/solve_tensor.h"

#include <algorithm>

#include "kernels/pack.h"
#include "runtime/check.h"

namespace halfquad::test {
namespace {

/// Calls visit(block, target) for consecutive runs of groups.
template <class Visit>
void for_each_block(const SourceTensor& tensor, const QuantSpec& spec, std::int64_t groups_per_block, SolvedTensor& out,
                    Visit visit) {
  const GroupedShape& shape = out.shape;
  const bool along_rows = !spec.channel_wise || spec.axis == 1;
  const std::int64_t group_stride = along_rows ? shape.cols : 1;
  const std::int64_t element_stride = along_rows ? 1 : shape.cols;
  const std::int64_t most = groups_per_block > 0 ? groups_per_block : shape.groups;
  for (std::int64_t first = 0; first < shape.groups; first += most) {
    const GroupBlock block{.data = tensor.data + first * group_stride * bytes_of(tensor.dtype),
                           .dtype = tensor.dtype,
                           .groups = std::min(most, shape.groups - first),
                           .group_elems = shape.group_elems,
                           .group_stride = group_stride,
                           .element_stride = element_stride};
    const std::int64_t at = spec.channel_wise ? first : 0;
    visit(block, SolveTarget{.codes = out.codes.data() + first * group_stride,
                             .group_stride = group_stride,
                             .element_stride = element_stride,
                             .scale = out.scale.data() + at,
                             .zero = out.zero.data() + at});
  }
}

void solve_per_tensor(Solver& solver, const SourceTensor& tensor, const QuantSpec& spec, const SolveOptions& options,
                      SolvedTensor& out) {
  const WeightRange range = solver.range(tensor.data, tensor.dtype, tensor.rows * tensor.cols);
  const FixedGrid grid = start_grid(range, spec.width, spec.round_zero);
  out.scale = {grid.scale};
  out.zero = {grid.zero};
  SolveStats stats;
  for_each_block(tensor, spec, options.groups_per_block, out, [&](const GroupBlock& block, const SolveTarget& target) {
    solver.encode(block, spec.width, grid, options.stored, target, stats);
  });
  out.final_error = stats.final_error;
  out.nonfinite = range.nonfinite || stats.nonfinite;
}

void solve_groups(Solver& solver, const SourceTensor& tensor, const QuantSpec& spec, const SolveOptions& options,
                  SolvedTensor& out) {
  out.scale.resize(static_cast<std::size_t>(out.shape.groups));
  out.zero.resize(static_cast<std::size_t>(out.shape.groups));
  const auto run = [&](int iters, RecordErrors record) {
    SolveStats stats;
    stats.step_abs.resize(static_cast<std::size_t>(spec.iters));
    const SolveRequest request{
        .spec = spec, .iters = iters, .stored = options.stored, .record = record, .exit = options.exit};
    for_each_block(
        tensor, spec, options.groups_per_block, out,
        [&](const GroupBlock& block, const SolveTarget& target) { solver.solve(block, request, target, stats); });
    out.final_error = stats.final_error;
    out.nonfinite = stats.nonfinite;
    return stats;
  };

  const SolveStats stats = run(spec.iters, RecordErrors::kYes);
  EarlyStop stop;
  while (spec.optimizes() && !out.stopped_early && out.steps < spec.iters) {
    out.mean_abs_e.push_back(stats.step_abs[static_cast<std::size_t>(out.steps)].mean(tensor.rows * tensor.cols));
    ++out.steps;
    out.stopped_early = stop.stops(out.mean_abs_e.back());
  }
  if (out.steps < spec.iters && spec.optimizes()) run(out.steps, RecordErrors::kNo);
}

}  // namespace

SolvedTensor solve_tensor(Solver& solver, const SourceTensor& tensor, const QuantSpec& spec,
                          const SolveOptions& options) {
  HALFQUAD_REQUIRE(!why_not(spec, tensor.rows, tensor.cols), kInternal, *why_not(spec, tensor.rows, tensor.cols));
  SolvedTensor out;
  out.shape = grouped_shape(spec, tensor.rows, tensor.cols);
  out.codes.resize(static_cast<std::size_t>(tensor.rows * tensor.cols));
  if (spec.channel_wise) {
    solve_groups(solver, tensor, spec, options, out);
  } else {
    solve_per_tensor(solver, tensor, spec, options, out);
  }
  return out;
}

std::vector<std::byte> pack_tensor(const SolvedTensor& solved, const QuantSpec& spec) {
  const Packing packing = packing_of(spec.width);
  const std::int64_t count = packed_rows(packing, solved.shape.rows) * solved.shape.cols;
  const auto total = static_cast<std::int64_t>(solved.codes.size());
  std::vector<std::byte> packed(static_cast<std::size_t>(count * packed_bytes_of(packing)));
  std::vector<std::uint8_t> padded = solved.codes;  // the last slabs of a padded matrix are short or missing
  const std::int64_t wanted = count * slabs_of(packing);
  if (wanted > total) padded.resize(static_cast<std::size_t>(wanted));
  std::vector<const std::uint8_t*> slabs;
  for (std::int64_t s = 0; s < slabs_of(packing); ++s) {
    slabs.push_back(s * count < total ? padded.data() + s * count : nullptr);
  }
  pack_codes(packing, slabs, count, packed.data());
  return packed;
}

}  // namespace halfquad::test
