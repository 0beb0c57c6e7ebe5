#include "runtime/cuda/event.h"

#include "runtime/cuda/check.h"

namespace halfquad::cuda {

Event::Event() { HALFQUAD_CHECK_CUDA(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }

Event::~Event() { (void)cudaEventDestroy(event_); }

void Event::record(const Stream& stream) const { HALFQUAD_CHECK_CUDA(cudaEventRecord(event_, stream.get())); }

bool Event::reached() const {
  const cudaError_t status = cudaEventQuery(event_);
  if (status == cudaErrorNotReady) {
    (void)cudaGetLastError();  // it is no error, but would be taken for the next call's
    return false;
  }
  check(status, "cudaEventQuery");
  return true;
}

void Event::hold_back(const Stream& stream) const { HALFQUAD_CHECK_CUDA(cudaStreamWaitEvent(stream.get(), event_, 0)); }

}  // namespace halfquad::cuda
