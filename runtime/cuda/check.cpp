#include "runtime/cuda/check.h"

#include <string>
#include <string_view>

namespace halfquad::cuda {

void check(cudaError_t status, const char* call, SourceLocation where) {
  if (status == cudaSuccess) [[likely]]
    return;
  (void)cudaGetLastError();
  std::string what = "cuda";
  int device = 0;
  if (cudaGetDevice(&device) == cudaSuccess) what.append(":").append(std::to_string(device));
  const std::string_view text = call;
  what.append(" ").append(text.substr(0, text.find('('))).append(": ").append(cudaGetErrorString(status));
  throw Error(status == cudaErrorMemoryAllocation ? ErrorCode::kOutOfMemory : ErrorCode::kDevice, what, where);
}

}  // namespace halfquad::cuda
