#include "kernels/device_check.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/decode.h"
#include "kernels/float_grid.h"
#include "kernels/fp8.h"
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

/// Weights of kGroups groups, and the codes with scales that they are decoded from, if any.
struct KnownWeights {
  DType dtype = DType::kBF16;
  std::vector<std::byte> bytes = {};
  std::vector<std::byte> codes = {}, scales = {};
};

// Blocks of E4M3 codes: their borders fall into groups, and into what a device decodes together.
constexpr std::int64_t kBlockRows = 16, kBlockCols = 50;
constexpr std::int64_t kLineScales = (kColumns + kBlockCols - 1) / kBlockCols;

/// Weights of many magnitudes, none of them special: an xorshift generator, since they must be the same everywhere.
std::vector<float> known_floats() {
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
  return weights;
}

KnownWeights known_weights() {
  const std::vector<float> weights = known_floats();
  KnownWeights known{.bytes = std::vector<std::byte>(weights.size() * 2)};
  encode_from_f32(weights.data(), DType::kBF16, static_cast<std::int64_t>(weights.size()), known.bytes.data());
  return known;
}

KnownWeights known_codes() {
  const std::vector<float> weights = known_floats();
  const auto count = static_cast<std::int64_t>(weights.size());
  const std::int64_t rows = (count + kColumns - 1) / kColumns;
  KnownWeights known{.dtype = DType::kF32, .bytes = std::vector<std::byte>(weights.size() * sizeof(float))};
  for (const float weight : weights) known.codes.push_back(static_cast<std::byte>(f32_to_e4m3(weight * 100)));
  std::vector<float> scales;
  for (std::int64_t i = 0; i < (rows + kBlockRows - 1) / kBlockRows * kLineScales; ++i) {
    scales.push_back(0.01F + static_cast<float>(i % 7) * 0.0013F);
  }
  known.scales.resize(scales.size() * sizeof(float));
  encode_from_f32(scales.data(), DType::kF32, static_cast<std::int64_t>(scales.size()), known.scales.data());
  decode_fp8_run(known.codes.data(), DType::kF8E4M3, {0, 0, count, kColumns},
                 {known.scales.data(), DType::kF32, kBlockRows, kBlockCols},
                 reinterpret_cast<float*>(known.bytes.data()));
  return known;
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
Solved solve_on_host(Solver& host, const QuantSpec& spec, const KnownWeights& weights) {
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
  const GroupBlock block{weights.bytes.data(), weights.dtype,  kGroups, kGroupSize,
                         group_stride,         element_stride, columns};
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

QuantSpec float_spec(FloatGrid grid) {
  QuantSpec spec = spec_of(SolverKind::kAls, CodeWidth::k4, 1, ZeroKind::kSymmetric);
  spec.grid = grid;
  spec.group_size = group_size_of(grid);
  return spec;
}

constexpr float kTensorScale = 300;  // of floating-point grids

/// By the host on a floating-point grid, one code to a byte.
Solved solve_floats_on_host(Solver& host, const QuantSpec& spec, const KnownWeights& weights) {
  constexpr std::int64_t kCount = kGroups * kGroupSize;
  const std::int64_t groups = kCount / spec.group_size;
  Solved solved;
  solved.importance = known_importance(spec);
  std::vector<float> floats(kCount), scale(static_cast<std::size_t>(groups)), zero(scale.size(), kFloatCodeZero);
  decode_to_f32(weights.bytes.data(), weights.dtype, kCount, floats.data());
  solved.codes.resize(kCount);
  auto* const codes = reinterpret_cast<std::uint8_t*>(solved.codes.data());
  make_float_searcher()->run({.grid = spec.grid,
                              .tensor_scale = kTensorScale,
                              .weights = floats.data(),
                              .groups = groups,
                              .importance = solved.importance.data(),
                              .cols = kColumns},
                             ScaleSearch::kBest, {codes, scale.data()});
  const GroupBlock block{weights.bytes.data(),
                         weights.dtype,
                         groups,
                         spec.group_size,
                         spec.group_size,
                         1,
                         {solved.importance.data(), kColumns, 0}};
  host.measure(block, {codes, scale.data(), zero.data()}, solved.result.error);
  for (auto [from, to] : {std::pair(&scale, &solved.scale), std::pair(&zero, &solved.zero)}) {
    to->resize(from->size() * sizeof(float));
    encode_from_f32(from->data(), DType::kF32, groups, to->data());
  }
  return solved;
}

/// The tile that asks a device for the same.
DeviceTile float_tile_of(const QuantSpec& spec, const KnownWeights& weights, const Solved& expected, Solved& out) {
  out.codes.resize(expected.codes.size());
  out.scale.resize(expected.scale.size());
  out.zero.resize(expected.zero.size());
  DeviceTile tile;
  tile.spec = spec;
  tile.tensor_scale = kTensorScale;
  tile.source = weights.dtype;
  tile.stored = DType::kF32;
  tile.importance = expected.importance;
  tile.unpacked = true;
  tile.cols = spec.group_size;
  tile.packed_rows = kGroups * kGroupSize / spec.group_size;
  tile.slabs = {{weights.bytes.data(), tile.packed_rows, 0}};
  tile.codes = out.codes.data();
  tile.scale = out.scale.data();
  tile.zero = out.zero.data();
  return tile;
}

/// Room for the device's results, and the tile that asks for them.
DeviceTile tile_of(const QuantSpec& spec, const KnownWeights& weights, const Solved& expected, Solved& out) {
  out.codes.resize(expected.codes.size());
  out.scale.resize(expected.scale.size());
  out.zero.resize(expected.zero.size());
  const Packing packing = packing_of(spec.width);
  DeviceTile tile;
  tile.spec = spec;
  tile.source = weights.dtype;
  tile.iters = spec.iters;
  tile.record = RecordErrors::kYes;
  tile.importance = expected.importance;
  tile.by_columns = spec.axis == 0;
  tile.cols = tile.by_columns ? kGroups : kGroupSize;
  const std::int64_t rows = tile.by_columns ? kGroupSize : kGroups;
  tile.packed_rows = packed_rows(packing, rows);
  const bool coded = !weights.codes.empty();
  if (coded) tile.coded = {DType::kF8E4M3, DType::kF32, kColumns, kBlockRows, kBlockCols};
  const std::vector<std::byte>& stored = coded ? weights.codes : weights.bytes;
  if (tile.by_columns) {
    tile.slabs = {{stored.data(), rows}};
  } else {
    for (int slab = 0; slab < slabs_of(packing); ++slab) {
      const std::int64_t first = std::min(rows, slab * tile.packed_rows);
      const std::int64_t last = std::min(rows, first + tile.packed_rows);
      DeviceTile::Slab& to = tile.slabs.emplace_back();
      to.rows = last - first;
      if (to.rows == 0) continue;
      const std::int64_t first_weight = first * tile.cols;
      to.data = stored.data() + first_weight * (coded ? 1 : bytes_of(weights.dtype));
      to.first_col = first_weight % kColumns;
      to.first_row = first_weight / kColumns;
      const auto line = static_cast<std::size_t>(to.first_row / kBlockRows * kLineScales) * sizeof(float);
      if (coded) to.scales = std::span(weights.scales).subspan(line);
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
  struct Check {
    QuantSpec spec;
    const KnownWeights& weights;
  };
  const KnownWeights plain = known_weights(), coded = known_codes();
  const std::vector<Check> checks = {{spec_of(SolverKind::kHqq, CodeWidth::k4, 1), plain},
                                     {spec_of(SolverKind::kHqq, CodeWidth::k3, 1), plain},
                                     {spec_of(SolverKind::kHqq, CodeWidth::k2, 0), plain},
                                     {spec_of(SolverKind::kAls, CodeWidth::k4, 1), plain},
                                     {spec_of(SolverKind::kHqq, CodeWidth::k4, 1, ZeroKind::kInteger), plain},
                                     {spec_of(SolverKind::kAls, CodeWidth::k4, 1, ZeroKind::kInteger), plain},
                                     {spec_of(SolverKind::kHqq, CodeWidth::k4, 1), coded},
                                     {float_spec(FloatGrid::kNvfp4), plain},
                                     {float_spec(FloatGrid::kMxfp4), plain}};
  std::vector<Solved> expected, found(checks.size());
  std::vector<DeviceTile> tiles;
  for (std::size_t i = 0; i < checks.size(); ++i) {
    const bool floats = checks[i].spec.grid != FloatGrid::kNone;
    expected.push_back((floats ? solve_floats_on_host : solve_on_host)(host, checks[i].spec, checks[i].weights));
    tiles.push_back((floats ? float_tile_of : tile_of)(checks[i].spec, checks[i].weights, expected[i], found[i]));
  }
  std::vector<DeviceResult> results = device.solve(tiles);
  for (std::size_t i = 0; i < checks.size(); ++i) {
    found[i].result = std::move(results[i]);
    const QuantSpec& spec = checks[i].spec;
    if (const auto what = difference(expected[i], found[i])) {
      return *what + " of " + std::string(name_of(spec.width)) + "-bit groups along axis " + std::to_string(spec.axis) +
             (checks[i].weights.codes.empty() ? "" : " of FP8 weights") +
             (spec.grid == FloatGrid::kNone ? "" : " of " + std::string(name_of(spec.grid))) +
             (spec.zeros == ZeroKind::kFloat ? " solved by " : " with whole zeros solved by ") +
             std::string(name_of(spec.solver));
    }
  }
  return {};
}

}  // namespace halfquad
