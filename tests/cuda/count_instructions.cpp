#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_solver.h"
#include "kernels/decode.h"
#include "kernels/float_grid.h"
#include "kernels/fp8.h"
#include "runtime/error.h"

// Solves Gaussian weights of 4 bits in groups of 64 (bf16, sigma 0.02), for predict_rate.py, and prints their number.
// Usage: count_instructions on|off|fp8|als|whole|whole-als|nvfp4|mxfp4: by hqq (20 steps, errors recorded), groups that
// have settled left alone or not; the first from E4M3 codes with scales of 128 x 128 blocks; by als (5 starts of 4
// rounds at most, rows of 4096 weighed columns); for whole zeros, without column weights or by als; for floating-point
// grids.

namespace halfquad {
namespace {

constexpr std::int64_t kGroups = 1024, kGroupSize = 64, kColumns = 4096;

int run(const std::string& mode) {
  std::mt19937_64 random(1);
  std::normal_distribution<float> gauss(0.0F, 0.02F);
  std::vector<float> weights(kGroups * kGroupSize);
  for (float& weight : weights) weight = gauss(random);
  std::vector<std::byte> source(weights.size() * 2), codes(weights.size() / 2), scale(kGroups * 2), zero(kGroups * 2);
  encode_from_f32(weights.data(), DType::kBF16, kGroups * kGroupSize, source.data());

  DeviceTile tile;
  tile.source = DType::kBF16;
  tile.iters = tile.spec.iters;
  std::vector<float> importance;
  if (mode.starts_with("whole")) {
    tile.spec.zeros = ZeroKind::kInteger;
    tile.form = DeviceTile::StoredForm{};
  }
  if (mode.ends_with("als")) {
    for (std::int64_t i = 0; i < kColumns; ++i) importance.push_back(std::exp(gauss(random) * 50));
    tile.spec.solver = SolverKind::kAls;
    tile.form = DeviceTile::StoredForm{};
    tile.importance = importance;
  } else {
    tile.spec.solver = SolverKind::kHqq;
    if (tile.spec.optimizes()) tile.record = RecordErrors::kYes;
  }
  tile.cols = kGroupSize;
  tile.packed_rows = kGroups / 2;
  tile.slabs = {{source.data(), kGroups / 2, 0}, {source.data() + source.size() / 2, kGroups / 2, 0}};
  std::vector<std::byte> stored;
  const std::vector<float> scales(kColumns / 128, 0x1p-9F);
  if (mode == "fp8") {
    for (const float weight : weights) stored.push_back(static_cast<std::byte>(f32_to_e4m3(weight * 512)));
    tile.source = DType::kF32;
    tile.coded = {.tensor_cols = kColumns, .block_rows = 128, .block_cols = 128};
    tile.slabs[0].data = stored.data();
    tile.slabs[1].data = stored.data() + stored.size() / 2;
    tile.slabs[1].first_row = kGroups / 2 * kGroupSize / kColumns;
    for (DeviceTile::Slab& slab : tile.slabs) slab.scales = std::as_bytes(std::span(scales));
  }
  const auto grid = float_grid_from_name(mode);
  if (grid) {
    tile.spec.grid = *grid;
    tile.spec.group_size = tile.cols = group_size_of(*grid);
    tile.spec.zeros = ZeroKind::kSymmetric;
    tile.spec.solver = SolverKind::kAls;
    tile.record = RecordErrors::kNo;
    tile.tensor_scale = tensor_scale_of(0.1F);
    tile.stored = DType::kF32;
    tile.unpacked = true;
    tile.packed_rows = kGroups * kGroupSize / tile.cols;
    tile.slabs = {{source.data(), tile.packed_rows, 0}};
    codes.resize(weights.size());
    scale.resize(static_cast<std::size_t>(tile.packed_rows) * sizeof(float));
    zero.resize(scale.size());
  }
  tile.codes = codes.data();
  tile.scale = scale.data();
  tile.zero = zero.data();
  const FixedPointExit exit = mode == "off" ? FixedPointExit::kOff : FixedPointExit::kOn;
  cuda::CudaSolver solver({.device = 0, .name = "", .memory_bytes = 16 << 20, .exit = exit});
  (void)solver.solve({&tile, 1});
  std::printf("weights %lld\n", static_cast<long long>(kGroups * kGroupSize));
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace halfquad

int main(int argc, char** argv) {
  try {
    return halfquad::run(argc > 1 ? argv[1] : "off");
  } catch (const halfquad::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return EXIT_FAILURE;
  }
}
