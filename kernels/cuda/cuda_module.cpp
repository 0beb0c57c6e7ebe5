#include "kernels/cuda/cuda_module.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "kernels/cuda/cublas_gemm.h"
#include "kernels/cuda/cuda_solver.h"
#include "runtime/cuda/check.h"
#include "runtime/cuda/device_guard.h"
#include "runtime/cuda/memory.h"
#include "runtime/cuda/nccl_link.h"
#include "runtime/error.h"

namespace halfquad::cuda {
namespace {

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// As the file system of the kernel writes it: in lower case.
std::string bus_id_of(int device) {
  std::array<char, 32> text{};
  HALFQUAD_CHECK_CUDA(cudaDeviceGetPCIBusId(text.data(), static_cast<int>(text.size()), device));
  std::string id = text.data();
  std::transform(id.begin(), id.end(), id.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return id;
}

DeviceInfo info_of(int device) {
  cudaDeviceProp properties{};
  HALFQUAD_CHECK_CUDA(cudaGetDeviceProperties(&properties, device));
  return {.index = device,
          .name = properties.name,
          .bus_id = bus_id_of(device),
          .major = properties.major,
          .minor = properties.minor,
          .multiprocessors = properties.multiProcessorCount,
          .memory_bytes = properties.totalGlobalMem,
          .free_bytes = properties.totalGlobalMem};
}

}  // namespace

std::vector<DeviceInfo> CudaModule::devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    (void)cudaGetLastError();  // no driver, an older one, or no device: none can be used
    return {};
  }
  std::vector<DeviceInfo> devices;
  for (int device = 0; device < count; ++device) devices.push_back(info_of(device));
  return devices;
}

std::unique_ptr<DeviceSolver> CudaModule::make_solver(int index, std::uint64_t memory_bytes) {
  return std::make_unique<CudaSolver>(
      CudaSolver::Options{.device = index, .name = info_of(index).name, .memory_bytes = memory_bytes});
}

std::unique_ptr<Gemm> CudaModule::make_gemm(int index) { return make_cublas_gemm(index); }

std::vector<std::byte> CudaModule::link_identity(int index) { return nccl_link_identity(index); }

AcceptedLink CudaModule::accept_link(int index, std::span<const std::byte> identity) {
  return accept_nccl_link(index, identity);
}

std::unique_ptr<DeviceLink> CudaModule::join_link(int index, std::span<const std::byte> invitation) {
  return join_nccl_link(index, invitation);
}

bool CudaModule::lock_pages(int index, std::span<std::byte> memory) noexcept {
  try {
    const DeviceGuard guard(index);
    return cuda::lock_pages(memory);
  } catch (const Error&) {
    return false;
  }
}

void CudaModule::unlock_pages(int index, std::span<std::byte> memory) noexcept {
  try {
    const DeviceGuard guard(index);
    cuda::unlock_pages(memory);
  } catch (const Error&) {
    return;  // the device is lost, and its page locks with it
  }
}

std::uint64_t CudaModule::wanted_bytes(std::int64_t tile_weights) const noexcept {
  return CudaSolver::wanted_bytes(tile_weights);
}

std::string CudaModule::name() const {
  int runtime = 0, driver = 0;
  if (cudaRuntimeGetVersion(&runtime) != cudaSuccess || cudaDriverGetVersion(&driver) != cudaSuccess) {
    (void)cudaGetLastError();
  }
  return "CUDA runtime " + version_text(runtime) + ", driver " + (driver > 0 ? version_text(driver) : "none");
}

}  // namespace halfquad::cuda
