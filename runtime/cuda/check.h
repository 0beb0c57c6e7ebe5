#pragma once

#include <cuda_runtime_api.h>

#include "runtime/error.h"

namespace halfquad::cuda {

/// Throws unless `status` is success: kOutOfMemory when the device's memory is spent, else kDevice, with a text like
/// "cuda:1 cudaMemcpyAsync: an illegal memory access was encountered". `call`: source text of what returned it. An
/// error that is not for ever is cleared, so that it is not blamed on the next call.
void check(cudaError_t status, const char* call, SourceLocation where = SourceLocation::current());

}  // namespace halfquad::cuda

/// Makes a call of the CUDA runtime and throws as halfquad::cuda::check() does when it fails.
#define HALFQUAD_CHECK_CUDA(call) ::halfquad::cuda::check((call), #call)
