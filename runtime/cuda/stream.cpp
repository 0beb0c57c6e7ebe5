#include "runtime/cuda/stream.h"

#include "runtime/cuda/check.h"

namespace halfquad::cuda {

Stream::Stream() { HALFQUAD_CHECK_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }

Stream::~Stream() { (void)cudaStreamDestroy(stream_); }

void Stream::synchronize() const { HALFQUAD_CHECK_CUDA(cudaStreamSynchronize(stream_)); }

void Stream::drain() const noexcept {
  (void)cudaStreamSynchronize(stream_);
  (void)cudaGetLastError();
}

}  // namespace halfquad::cuda
