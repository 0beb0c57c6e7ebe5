// A libnccl.so.2 in front of the one that HALFQUAD_REAL_NCCL names. It does what the library may do with a communicator
// that is not to block, and seldom does: every call returns before it has begun, and goes on on another thread. A
// chosen call fails.

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <dlfcn.h>
#include <functional>
#include <memory>
#include <thread>

#include <cuda_runtime_api.h>
#include <nccl.h>

struct ncclComm {
  ncclComm_t real = nullptr;
  int device = 0;
  std::atomic<int> state{ncclInProgress};
  std::atomic<bool> working{false};
};

namespace {

std::atomic<int> calls_left{0};  // until one fails; 0: none

void* library() {
  static void* const opened = [] {
    const char* const file = std::getenv("HALFQUAD_REAL_NCCL");
    return file == nullptr ? nullptr : ::dlopen(file, RTLD_NOW | RTLD_LOCAL);
  }();
  return opened;
}

template <class Function>
Function real(Function /*for its type*/, const char* name) {
  return library() == nullptr ? nullptr : reinterpret_cast<Function>(::dlsym(library(), name));
}
#define REAL(name) real(&name, #name)

ncclResult_t later(ncclComm* communicator, std::chrono::milliseconds delay, const std::function<ncclResult_t()>& call) {
  communicator->state = ncclInProgress;
  communicator->working = true;
  const bool fails = calls_left > 0 && --calls_left == 0;
  std::thread([communicator, delay, call, fails] {
    std::this_thread::sleep_for(delay);
    static_cast<void>(cudaSetDevice(communicator->device));
    communicator->state = fails ? ncclSystemError : call();
    communicator->working = false;
  }).detach();
  return ncclInProgress;
}

}  // namespace

extern "C" {

/// The n-th call from now on, of those that start something, fails; 0: none does.
void halfquad_fail_nccl_call(int n) { calls_left = n; }

ncclResult_t ncclGetVersion(int* version) {
  return library() == nullptr ? ncclSystemError : REAL(ncclGetVersion)(version);
}
const char* ncclGetErrorString(ncclResult_t result) { return REAL(ncclGetErrorString)(result); }
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) { return REAL(ncclGetUniqueId)(id); }

ncclResult_t ncclCommInitRankConfig(ncclComm_t* communicator, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (config->blocking != 0) return ncclInvalidUsage;
  *communicator = new ncclComm;
  ncclComm* const own = *communicator;
  static_cast<void>(cudaGetDevice(&own->device));
  return later(own, std::chrono::milliseconds(20),
               [own, ranks, id, rank] { return REAL(ncclCommInitRank)(&own->real, ranks, id, rank); });
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t* state) {
  *state = static_cast<ncclResult_t>(communicator->state.load());
  return *state == ncclSuccess ? REAL(ncclCommGetAsyncError)(communicator->real, state) : ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t communicator) {
  if (communicator->working && communicator->real == nullptr) return ncclSuccess;  // left to its thread
  while (communicator->working) std::this_thread::yield();
  const ncclResult_t result = communicator->real == nullptr ? ncclSuccess : REAL(ncclCommAbort)(communicator->real);
  delete communicator;
  return result;
}

ncclResult_t ncclSend(const void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t communicator,
                      cudaStream_t stream) {
  if (communicator->working) return ncclInvalidUsage;
  return later(communicator, std::chrono::milliseconds(5),
               [=] { return REAL(ncclSend)(data, count, type, peer, communicator->real, stream); });
}

ncclResult_t ncclRecv(void* data, size_t count, ncclDataType_t type, int peer, ncclComm_t communicator,
                      cudaStream_t stream) {
  if (communicator->working) return ncclInvalidUsage;
  return later(communicator, std::chrono::milliseconds(5),
               [=] { return REAL(ncclRecv)(data, count, type, peer, communicator->real, stream); });
}

}  // extern "C"
