// Rates of a CUDA device: copies, the solver, and both together. For tests/cuda/run.
// Usage: bench_cuda [DEVICE [MILLISECONDS [GROUPS]]]: each figure is the median of five runs of about that long, with
// tiles of so many groups (default 0 200 65536). Prints lines "halfquad-cuda-1, key, value, ...".

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda_module.h"
#include "kernels/cuda/cuda_solver.h"
#include "kernels/decode.h"
#include "runtime/cuda/check.h"
#include "runtime/cuda/device_guard.h"
#include "runtime/cuda/memory.h"
#include "runtime/cuda/stream.h"
#include "runtime/error.h"

namespace halfquad::cuda {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kGroupSize = 64;
constexpr int kSteps = 20;
constexpr int kRuns = 5;
constexpr int kStreams = 3;

struct Setup {
  int device = 0;
  double seconds = 0.2;
  std::int64_t groups = 1 << 16;  // of a full tile
  [[nodiscard]] std::int64_t weights() const { return groups * kGroupSize; }
  [[nodiscard]] std::uint64_t source_bytes() const { return static_cast<std::uint64_t>(weights()) * 2; }
};

double seconds_of(const std::function<void()>& work) {
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Median seconds of one call, after one to warm up.
double median_seconds(const Setup& setup, const std::function<void()>& work) {
  work();
  const double once = seconds_of(work);
  const int calls = std::max(1, static_cast<int>(setup.seconds / std::max(once, 1e-9)));
  std::vector<double> seconds;
  for (int run = 0; run < kRuns; ++run) {
    seconds.push_back(seconds_of([&] {
                        for (int i = 0; i < calls; ++i) work();
                      }) /
                      calls);
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());
  return seconds[kRuns / 2];
}

/// Bytes/s of copies of a tile's size, one after the other, on one stream for each direction.
double copy_rate(const Setup& setup, bool to_device, bool to_host) {
  constexpr int kCopies = 16;
  const std::uint64_t bytes = setup.source_bytes();
  PinnedBuffer host_in, host_out;
  std::byte* const in = host_in.reserve(bytes);
  std::byte* const out = host_out.reserve(bytes);
  const DeviceBuffer device_in(bytes), device_out(bytes);
  const Stream up, down;
  const double seconds = median_seconds(setup, [&] {
    for (int i = 0; i < kCopies; ++i) {
      if (to_device) {
        HALFQUAD_CHECK_CUDA(cudaMemcpyAsync(device_in.data(), in, bytes, cudaMemcpyHostToDevice, up.get()));
      }
      if (to_host) {
        HALFQUAD_CHECK_CUDA(cudaMemcpyAsync(out, device_out.data(), bytes, cudaMemcpyDeviceToHost, down.get()));
      }
    }
    up.synchronize();
    down.synchronize();
  });
  return kCopies * static_cast<double>(bytes) / seconds;
}

/// A tile of Gaussian weights, as layers have them, in page-locked memory.
class PinnedTile {
 public:
  PinnedTile(const Setup& setup, CodeWidth width, SolverKind solver, ZeroKind zeros = ZeroKind::kFloat) {
    const Packing packing = packing_of(width);
    const std::int64_t slabs = slabs_of(packing);
    const std::int64_t groups = setup.groups;
    const std::int64_t rows = packed_rows(packing, groups);
    std::byte* const source = source_.reserve(setup.source_bytes());
    fill(source, setup.weights());
    tile_.spec.width = width;
    tile_.spec.solver = solver;
    tile_.spec.zeros = zeros;
    if (!tile_.spec.optimizes()) tile_.form = DeviceTile::StoredForm{};
    tile_.source = DType::kBF16;
    tile_.cols = kGroupSize;
    tile_.packed_rows = rows;
    for (std::int64_t slab = 0; slab < slabs; ++slab) {
      const std::int64_t first = std::min(groups, slab * rows), last = std::min(groups, first + rows);
      tile_.slabs.push_back({source + first * kGroupSize * 2, last - first, 0});
    }
    const std::int64_t codes = rows * kGroupSize * packed_bytes_of(packing);
    bytes_out_ = static_cast<std::uint64_t>(codes + 2 * groups * 2);
    tile_.codes = output_.reserve(bytes_out_);
    tile_.scale = tile_.codes + codes;
    tile_.zero = tile_.scale + groups * 2;
  }

  [[nodiscard]] DeviceTile with(int iters, RecordErrors record) const {
    DeviceTile tile = tile_;
    tile.spec.iters = tile.iters = iters;
    tile.record = record;
    return tile;
  }
  [[nodiscard]] std::uint64_t bytes_out() const { return bytes_out_; }

 private:
  static void fill(std::byte* source, std::int64_t count) {
    std::mt19937_64 random(1);
    std::normal_distribution<float> gauss(0.0F, 0.02F);
    std::vector<float> weights(static_cast<std::size_t>(count));
    for (float& weight : weights) weight = gauss(random);
    encode_from_f32(weights.data(), DType::kBF16, count, source);
  }

  PinnedBuffer source_, output_;
  DeviceTile tile_;
  std::uint64_t bytes_out_ = 0;
};

CudaSolver solver_for(const Setup& setup, FixedPointExit exit) {
  return CudaSolver({.device = setup.device,
                     .name = "",
                     .memory_bytes = CudaSolver::wanted_bytes(2 * setup.weights()),
                     .exit = exit});
}

/// Weights/s of 20 steps of the solver alone, none skipped: what many steps take longer than few has no copies in it.
double solver_rate(const Setup& setup, const PinnedTile& tile) {
  constexpr int kMany = 10 * kSteps;
  CudaSolver solver = solver_for(setup, FixedPointExit::kOff);
  const auto seconds = [&](int iters) {
    const DeviceTile one = tile.with(iters, RecordErrors::kYes);
    return median_seconds(setup, [&] { (void)solver.solve({&one, 1}); });
  };
  const double step = (seconds(kMany) - seconds(kSteps)) / (kMany - kSteps);
  return static_cast<double>(setup.weights()) / (kSteps * step);
}

/// Weights/s through copies and solver, on as many streams as quantize uses.
double whole_rate(const Setup& setup, CodeWidth width, SolverKind solver, ZeroKind zeros = ZeroKind::kFloat) {
  constexpr int kTiles = 8;  // of each stream
  std::vector<std::unique_ptr<PinnedTile>> tiles;
  std::vector<std::unique_ptr<CudaSolver>> solvers;
  for (int i = 0; i < kStreams; ++i) {
    tiles.push_back(std::make_unique<PinnedTile>(setup, width, solver, zeros));
    solvers.push_back(std::make_unique<CudaSolver>(CudaSolver::Options{
        .device = setup.device, .name = "", .memory_bytes = CudaSolver::wanted_bytes(2 * setup.weights())}));
  }
  const double seconds = median_seconds(setup, [&] {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < kStreams; ++i) {
      threads.emplace_back([&, i] {
        const bool steps = solver == SolverKind::kHqq && zeros == ZeroKind::kFloat;
        const DeviceTile tile = tiles[i]->with(kSteps, steps ? RecordErrors::kYes : RecordErrors::kNo);
        for (int n = 0; n < kTiles; ++n) (void)solvers[i]->solve({&tile, 1});
      });
    }
  });
  return kStreams * kTiles * static_cast<double>(setup.weights()) / seconds;
}

/// Lane operations/s the device can begin, from its clock and 128 lanes a multiprocessor.
double lane_rate(int device) {
  int processors = 0, khz = 0;
  HALFQUAD_CHECK_CUDA(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  HALFQUAD_CHECK_CUDA(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, device));
  return 128.0 * processors * khz * 1e3;
}

void bench(const Setup& setup) {
  CudaModule module;
  const std::vector<DeviceInfo> devices = module.devices();
  const auto info =
      std::find_if(devices.begin(), devices.end(), [&](const DeviceInfo& each) { return each.index == setup.device; });
  if (info == devices.end()) throw Error(ErrorCode::kUsage, "there is no device " + std::to_string(setup.device));
  const DeviceGuard guard(setup.device);
  const double lanes = lane_rate(setup.device);
  std::printf(
      "halfquad-cuda-1, bench, device, name, %s, capability, %d.%d, multiprocessors, %d, lane_ops_per_s, %.4g, "
      "software, %s\n",
      info->name.c_str(), info->major, info->minor, info->multiprocessors, lanes, module.name().c_str());
  const double up = copy_rate(setup, true, false);
  const double down = copy_rate(setup, false, true);
  std::printf(
      "halfquad-cuda-1, bench, copy, bytes, %llu, to_device_gb_per_s, %.2f, to_host_gb_per_s, %.2f, "
      "both_gb_per_s, %.2f\n",
      static_cast<unsigned long long>(setup.source_bytes()), up / 1e9, down / 1e9,
      2 * copy_rate(setup, true, true) / 1e9);
  for (const CodeWidth width : {CodeWidth::k4, CodeWidth::k3, CodeWidth::k2, CodeWidth::k8, CodeWidth::k1}) {
    const PinnedTile tile(setup, width, SolverKind::kHqq);
    const double solver = solver_rate(setup, tile);
    const double whole = whole_rate(setup, width, SolverKind::kHqq);
    const double bound =
        1 / std::max({2 / up, static_cast<double>(tile.bytes_out()) / static_cast<double>(setup.weights()) / down,
                      1 / solver});
    std::printf(
        "halfquad-cuda-1, bench, solve, bits, %s, group_size, %lld, steps, %d, solver_gweights_per_s, %.2f, "
        "lane_ops_per_weight, %.1f, with_copies_gweights_per_s, %.2f, fraction_of_bound, %.3f\n",
        std::string(name_of(width)).c_str(), static_cast<long long>(kGroupSize), kSteps, solver / 1e9, lanes / solver,
        whole / 1e9, whole / bound);
  }
  for (const CodeWidth width : {CodeWidth::k4, CodeWidth::k2}) {
    std::printf(
        "halfquad-cuda-1, bench, als, bits, %s, group_size, %lld, starts, 5, rounds, 4, with_copies_gweights_per_s, "
        "%.2f\n",
        std::string(name_of(width)).c_str(), static_cast<long long>(kGroupSize),
        whole_rate(setup, width, SolverKind::kAls) / 1e9);
  }
  for (const SolverKind solver : {SolverKind::kHqq, SolverKind::kAls}) {
    std::printf(
        "halfquad-cuda-1, bench, whole_zeros, bits, 4, group_size, %lld, weighed, %s, with_copies_gweights_per_s, "
        "%.2f\n",
        static_cast<long long>(kGroupSize), solver == SolverKind::kAls ? "yes" : "no",
        whole_rate(setup, CodeWidth::k4, solver, ZeroKind::kInteger) / 1e9);
  }
}

}  // namespace
}  // namespace halfquad::cuda

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
  try {
    halfquad::cuda::Setup setup;
    if (argc > 1) setup.device = std::atoi(argv[1]);
    if (argc > 2) setup.seconds = std::atoi(argv[2]) / 1e3;
    if (argc > 3) setup.groups = std::atoll(argv[3]);
    halfquad::cuda::bench(setup);
    return EXIT_SUCCESS;
  } catch (const halfquad::Error& error) {
    std::fprintf(stderr, "bench_cuda: %s\n", error.what());
    return EXIT_FAILURE;
  }
}
