#pragma once

#include <memory>

#include "kernels/gemm.h"

namespace halfquad::cuda {

/// See DeviceModule::make_gemm().
[[nodiscard]] std::unique_ptr<Gemm> make_cublas_gemm(int device);

}  // namespace halfquad::cuda
