#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_solver.h"
#include "kernels/decode.h"
#include "runtime/error.h"

// Solves Gaussian weights of 4 bits in groups of 64 (bf16, sigma 0.02), for predict_rate.py, and prints their number.
// Usage: count_instructions on|off|als|whole|whole-als: by hqq (20 steps, errors recorded), groups that have settled
// left alone or not; by als (5 starts of 4 rounds at most, rows of 4096 weighed columns); for whole zeros, without
// column weights or by als.

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
