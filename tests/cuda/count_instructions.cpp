#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_solver.h"
#include "kernels/decode.h"
#include "runtime/error.h"

// Solves Gaussian weights of 4 bits in groups of 64 (bf16, sigma 0.02, 20 steps, errors recorded), for predict_rate.py.
// Usage: count_instructions on|off: whether groups that have settled are left alone. Prints the number of weights.

namespace halfquad {
namespace {

constexpr std::int64_t kGroups = 1024, kGroupSize = 64;

int run(FixedPointExit exit) {
  std::mt19937_64 random(1);
  std::normal_distribution<float> gauss(0.0F, 0.02F);
  std::vector<float> weights(kGroups * kGroupSize);
  for (float& weight : weights) weight = gauss(random);
  std::vector<std::byte> source(weights.size() * 2), codes(weights.size() / 2), scale(kGroups * 2), zero(kGroups * 2);
  encode_from_f32(weights.data(), DType::kBF16, kGroups * kGroupSize, source.data());

  DeviceTile tile;
  tile.source = DType::kBF16;
  tile.iters = tile.spec.iters;
  tile.record = RecordErrors::kYes;
  tile.cols = kGroupSize;
  tile.packed_rows = kGroups / 2;
  tile.slabs = {{source.data(), kGroups / 2}, {source.data() + source.size() / 2, kGroups / 2}};
  tile.codes = codes.data();
  tile.scale = scale.data();
  tile.zero = zero.data();
  cuda::CudaSolver solver({.device = 0, .name = "", .memory_bytes = 16 << 20, .exit = exit});
  (void)solver.solve({&tile, 1});
  std::printf("weights %lld\n", static_cast<long long>(kGroups * kGroupSize));
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace halfquad

int main(int argc, char** argv) {
  try {
    const bool exit = argc > 1 && std::strcmp(argv[1], "on") == 0;
    return halfquad::run(exit ? halfquad::FixedPointExit::kOn : halfquad::FixedPointExit::kOff);
  } catch (const halfquad::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return EXIT_FAILURE;
  }
}
