#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "kernels/device_loader.h"
#include "runtime/error.h"
#include "tests/cuda/module_under_test.h"
#include "tests/cuda/tile_case.h"

// Solves a few tiles, twice, in memory that makes it cut one of them, and compares with the reference. For
// test_failures.py. Exit status 0: right bytes; 3: an Error that says that the device failed or is full; 1: else.

namespace halfquad {
namespace {

std::vector<test::TileSpec> few_specs() {
  test::TileSpec rows;
  rows.source = DType::kBF16;
  rows.spec.group_size = 32;
  rows.rows = 320;
  rows.cols = 32;
  rows.iters = rows.spec.iters = 3;
  test::TileSpec columns = rows;
  columns.spec.axis = 0;
  columns.spec.group_size = 24;
  columns.rows = 24;
  columns.cols = 300;
  test::TileSpec whole = rows;
  whole.spec.zeros = ZeroKind::kInteger;
  whole.record = RecordErrors::kNo;
  test::TileSpec coded = rows;
  coded.coded = test::CodedSpec{};
  coded.source = DType::kF32;
  return {rows, columns, whole, coded};
}

int solve_and_compare(DeviceModule& module) {
  std::mt19937_64 random(1);
  std::vector<std::unique_ptr<test::TileCase>> cases;
  for (const test::TileSpec& spec : few_specs()) cases.push_back(std::make_unique<test::TileCase>(spec, random));
  const auto solver = module.make_solver(0, 16 << 10);
  for (int round = 0; round < 2; ++round) {
    std::vector<DeviceTile> tiles;
    for (const auto& each : cases) each->spoil(), tiles.push_back(each->tile());
    const std::vector<DeviceResult> results = solver->solve(tiles);
    for (std::size_t i = 0; i < cases.size(); ++i) {
      const std::string difference = cases[i]->difference(results.at(i));
      if (difference.empty()) continue;
      std::fprintf(stderr, "round %d, tile %zu: wrong %s\n", round, i, difference.c_str());
      return EXIT_FAILURE;
    }
  }
  return EXIT_SUCCESS;
}

int run() {
  const LoadedDevices loaded = load_device_module(test::module_under_test());
  if (loaded.module == nullptr) {
    std::fprintf(stderr, "%s\n", loaded.detail.c_str());
    return EXIT_FAILURE;
  }
  try {
    return solve_and_compare(*loaded.module);
  } catch (const Error& error) {
    std::printf("%s\n", error.what());
    return error.code() == ErrorCode::kDevice || error.code() == ErrorCode::kOutOfMemory ? 3 : EXIT_FAILURE;
  }
}

}  // namespace
}  // namespace halfquad

int main() { return halfquad::run(); }
