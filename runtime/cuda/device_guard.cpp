#include "runtime/cuda/device_guard.h"

#include "runtime/cuda/check.h"

namespace halfquad::cuda {

DeviceGuard::DeviceGuard(int device) {
  HALFQUAD_CHECK_CUDA(cudaGetDevice(&former_));
  HALFQUAD_CHECK_CUDA(cudaSetDevice(device));
}

DeviceGuard::~DeviceGuard() { (void)cudaSetDevice(former_); }

}  // namespace halfquad::cuda
