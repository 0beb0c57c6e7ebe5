#include "kernels/device_check.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/decode.h"
#include "kernels/pack.h"

namespace halfquad {
namespace {

constexpr std::int64_t kGroupSize = 64;
constexpr std::int64_t kGroups = 320;  // even, and more than a block of threads on any device

constexpr std::int64_t kColumns = 3 * kGroupSize;  // of the tensor, where they are weighed

/// Solves that pass through most of what a device can get wrong: both axes, shrinkage on and off, several packings,
/// als, whole zeros by either search.
QuantSpec spec_of(SolverKind solver, CodeWidth width, int axis, ZeroKind zeros = ZeroKind::kFloat) {
  QuantSpec spec;
  spec.zeros = zeros;
  spec.solver = solver;
  spec.width = width;
  spec.axis = axis;
  spec.group_size = kGroupSize;
  return spec;
}

/// Weights of many magnitudes, none of them special: an xorshift generator, since they must be the same everywhere.
std::vector<std::byte> known_weights() {
  std::vector<float> weights(static_cast<std::size_t>(kGroups * kGroupSize));
  std::uint32_t state = 2463534242U;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    state ^= state << 13U;
    state ^= state >> 17U;
    state ^= state << 5U;
    const float uniform = static_cast<float>(state >> 8U) * 0x1p-23F - 1.0F;
    // Every third group is large enough for the shrinkage.
    const bool large = i / kGroupSize % 3 == 0;
    weights[i] = uniform * uniform * uniform * (large ? 4.0F : 0.1F);
  }
  std::vector<std::byte> stored(weights.size() * 2);
  encode_from_f32(weights.data(), DType::kBF16, static_cast<std::int64_t>(weights.size()), stored.data());
  return stored;
}

/// Of all sizes; none where nothing weighs.
std::vector<float> known_importance(const QuantSpec& spec) {
  std::vector<float> importance;
  if (!spec.weighted()) return importance;
  for (int i = 0; i < kColumns; ++i)
    importance.push_back(std::ldexp(1.0F + static_cast<float>(i) / 64, i * 7 % 12 - 6));
  return importance;
}

struct Solved {
  std::vector<std::byte> codes, scale, zero;
  std::vector<float> importance;
  DeviceResult result;
};

/// By the host: axis 1 has a group a row, axis 0 a group a column.
Solved solve_on_host(Solver& host, const QuantSpec& spec, const std::vector<std::byte>& weights) {
  const bool by_columns = spec.axis == 0;
  const std::int64_t group_stride = by_columns ? 1 : kGroupSize;
  const std::int64_t element_stride = by_columns ? kGroups : 1;
  Solved solved;
  solved.importance = known_importance(spec);
  const ColumnWeights columns{solved.importance.empty() ? nullptr : solved.importance.data(), kColumns, 0};
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(kGroups * kGroupSize));
  std::vector<float> scale(kGroups), zero(kGroups);
  SolveStats stats;
  stats.step_abs.resize(static_cast<std::size_t>(spec.iters));
  SolveRequest request;
  request.spec = spec;
  request.iters = spec.iters;
  const GroupBlock block{weights.data(), DType::kBF16, kGroups, kGroupSize, group_stride, element_stride, columns};
  host.solve(block, request, {codes.data(), group_stride, element_stride, scale.data(), zero.data()}, stats);

  const Packing packing = packing_of(spec.width);
  const std::int64_t rows = by_columns ? kGroupSize : kGroups;
  const std::int64_t cols = by_columns ? kGroups : kGroupSize;
  const std::int64_t packed = packed_rows(packing, rows);
  codes.resize(static_cast<std::size_t>(packed * slabs_of(packing) * cols));  // 3-bit padding
  std::vector<const std::uint8_t*> slabs;
  for (int slab = 0; slab < slabs_of(packing); ++slab) slabs.push_back(codes.data() + slab * packed * cols);
  solved.codes.resize(static_cast<std::size_t>(packed * cols * packed_bytes_of(packing)));
  pack_codes(packing, slabs, packed * cols, solved.codes.data());
  solved.scale.resize(kGroups * 2);
  solved.zero.resize(kGroups * 2);
  encode_from_f32(scale.data(), DType::kF16, kGroups, solved.scale.data());
  encode_from_f32(zero.data(), DType::kF16, kGroups, solved.zero.data());
  solved.result.error = stats.final_error;
  solved.result.step_abs = std::move(stats.step_abs);
  return solved;
}

/// Room for the device's results, and the tile that asks for them.
DeviceTile tile_of(const QuantSpec& spec, const std::vector<std::byte>& weights, const Solved& expected, Solved& out) {
  out.codes.resize(expected.codes.size());
  out.scale.resize(expected.scale.size());
  out.zero.resize(expected.zero.size());
  const Packing packing = packing_of(spec.width);
  DeviceTile tile;
  tile.spec = spec;
  tile.source = DType::kBF16;
  tile.iters = spec.iters;
  tile.record = RecordErrors::kYes;
  tile.importance = expected.importance;
  tile.by_columns = spec.axis == 0;
  tile.cols = tile.by_columns ? kGroups : kGroupSize;
  const std::int64_t rows = tile.by_columns ? kGroupSize : kGroups;
  tile.packed_rows = packed_rows(packing, rows);
  if (tile.by_columns) {
    tile.slabs = {{weights.data(), rows}};
  } else {
    for (int slab = 0; slab < slabs_of(packing); ++slab) {
      const std::int64_t first = std::min(rows, slab * tile.packed_rows);
      const std::int64_t last = std::min(rows, first + tile.packed_rows);
      const std::int64_t first_weight = first * tile.cols;
      tile.slabs.push_back(
          {first < last ? weights.data() + first_weight * 2 : nullptr, last - first, first_weight % kColumns});
    }
  }
  tile.codes = out.codes.data();
  tile.scale = out.scale.data();
  tile.zero = out.zero.data();
  return tile;
}

std::optional<std::string> difference(const Solved& expected, const Solved& found) {
  if (found.result.outcome != DeviceOutcome::kDone) return "the outcome";
  if (found.codes != expected.codes) return "the codes";
  if (found.scale != expected.scale) return "the scales";
  if (found.zero != expected.zero) return "the zeros";
  if (found.result.step_abs != expected.result.step_abs) return "the errors of the steps";
  const ErrorSums& a = expected.result.error;
  const ErrorSums& b = found.result.error;
  if (!(a.abs == b.abs && a.square == b.square && a.weight2 == b.weight2 && a.max_abs == b.max_abs))
    return "the errors";
  return {};
}

}  // namespace

std::optional<std::string> check_device(DeviceSolver& device, Solver& host) {
  const std::vector<std::byte> weights = known_weights();
  const std::vector<QuantSpec> specs = {spec_of(SolverKind::kHqq, CodeWidth::k4, 1),
                                        spec_of(SolverKind::kHqq, CodeWidth::k3, 1),
                                        spec_of(SolverKind::kHqq, CodeWidth::k2, 0),
                                        spec_of(SolverKind::kAls, CodeWidth::k4, 1),
                                        spec_of(SolverKind::kHqq, CodeWidth::k4, 1, ZeroKind::kInteger),
                                        spec_of(SolverKind::kAls, CodeWidth::k4, 1, ZeroKind::kInteger)};
  std::vector<Solved> expected, found(specs.size());
  std::vector<DeviceTile> tiles;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    expected.push_back(solve_on_host(host, specs[i], weights));
    tiles.push_back(tile_of(specs[i], weights, expected[i], found[i]));
  }
  std::vector<DeviceResult> results = device.solve(tiles);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    found[i].result = std::move(results[i]);
    if (const auto what = difference(expected[i], found[i])) {
      return *what + " of " + std::string(name_of(specs[i].width)) + "-bit groups along axis " +
             std::to_string(specs[i].axis) +
             (specs[i].zeros == ZeroKind::kFloat ? " solved by " : " with whole zeros solved by ") +
             std::string(name_of(specs[i].solver));
    }
  }
  return {};
}

}  // namespace halfquad
