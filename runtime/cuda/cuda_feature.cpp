#include <string>

#include <cuda_runtime_api.h>

#include "runtime/feature.h"

namespace halfquad {
namespace {

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

Feature cuda_feature() {
  int runtime = 0;
  if (cudaRuntimeGetVersion(&runtime) != cudaSuccess) {
    return {.name = "CUDA", .available = false, .detail = "the runtime does not tell its version"};
  }
  const std::string name = "runtime " + version_text(runtime);

  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    return {.name = "CUDA", .available = false, .detail = name + ", no driver"};
  }
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  (void)cudaGetLastError();  // a failed count stays set and would be blamed on the next call
  if (status != cudaSuccess) {
    return {.name = "CUDA", .available = false, .detail = name + ", no device: " + cudaGetErrorString(status)};
  }
  if (devices == 0) {
    return {.name = "CUDA", .available = false, .detail = name + ", no device"};
  }
  const std::string count = std::to_string(devices) + (devices == 1 ? " device" : " devices");
  return {.name = "CUDA", .available = true, .detail = name + ", " + count};
}

}  // namespace halfquad
