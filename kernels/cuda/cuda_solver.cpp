#include "kernels/cuda/cuda_solver.h"

#include <utility>

#include "kernels/cuda/batch.h"
#include "runtime/cuda/check.h"
#include "runtime/cuda/device_guard.h"
#include "runtime/error.h"
#include "runtime/text.h"

namespace halfquad::cuda {
namespace {

DeviceBuffer allocate(std::uint64_t bytes) {
  for (;; bytes /= 2) {
    try {
      return DeviceBuffer(bytes);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kOutOfMemory) throw;
      if (bytes / 2 < CudaSolver::kLeastBytes) {
        throw Error(ErrorCode::kOutOfMemory, std::string(error.what()) + " (" + human_bytes(bytes) + ")");
      }
    }
  }
}

}  // namespace

struct CudaSolver::Resources {
  explicit Resources(std::uint64_t bytes) : memory(allocate(bytes)) {}
  DeviceBuffer memory;
  PinnedBuffer pinned;
  Stream stream;
};

CudaSolver::CudaSolver(Options options) : options_(std::move(options)) {
  const DeviceGuard guard(options_.device);
  resources_ = std::make_unique<Resources>(options_.memory_bytes);
}

CudaSolver::~CudaSolver() {
  try {
    const DeviceGuard guard(options_.device);
    resources_.reset();
  } catch (const Error&) {
    resources_.reset();  // the device is lost, and all it held with it
  }
}

std::string CudaSolver::name() const { return "cuda:" + std::to_string(options_.device) + " " + options_.name; }

std::uint64_t CudaSolver::memory_bytes() const noexcept { return resources_->memory.bytes(); }

std::vector<DeviceResult> CudaSolver::solve(std::span<const DeviceTile> tiles) {
  const DeviceGuard guard(options_.device);
  const Resources& own = *resources_;
  std::vector<DeviceResult> results;
  while (!tiles.empty()) {
    const std::size_t count = Batch::most_tiles(tiles, own.memory.bytes());
    const Batch batch(tiles.first(count), {.memory = own.memory.data(),
                                           .bytes = own.memory.bytes(),
                                           .pinned = &resources_->pinned,
                                           .stream = own.stream.get(),
                                           .exit = options_.exit});
    try {
      batch.enqueue();
    } catch (...) {
      own.stream.drain();  // what was given to it still uses the caller's memory
      throw;
    }
    own.stream.synchronize();
    for (DeviceResult& result : batch.results()) results.push_back(std::move(result));
    tiles = tiles.subspan(count);
  }
  return results;
}

std::uint64_t CudaSolver::wanted_bytes(std::int64_t tile_weights) noexcept {
  constexpr std::uint64_t kEach = 8 + 1 + 1;  // as F64, a code, its packed form
  constexpr std::uint64_t kGroups = 2;        // scale and zero, when groups have at least four weights
  constexpr std::uint64_t kColumns = 1;       // importance, when there are at least four rows
  constexpr std::uint64_t kRest = 1 << 20;    // sums and descriptions
  return static_cast<std::uint64_t>(tile_weights) * (kEach + kGroups + kColumns) + kRest;
}

}  // namespace halfquad::cuda
