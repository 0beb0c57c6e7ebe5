#include "kernels/cuda/cuda_module.h"

/// See kernels/device.h.
extern "C" __attribute__((visibility("default"))) halfquad::DeviceModule* halfquad_device_module(int version) {
  if (version != halfquad::kDeviceModuleVersion) return nullptr;
  static halfquad::cuda::CudaModule module;
  return &module;
}
