#include "runtime/cuda/nccl_library.h"

#include <dlfcn.h>
#include <type_traits>

#include <cuda_runtime_api.h>

namespace halfquad::cuda {
namespace {

constexpr char kFile[] = "libnccl.so.2";
/// The first whose calls can be told not to block.
constexpr int kLeastVersion = NCCL_VERSION(2, 14, 0);

std::string version_text(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version % 10000 / 100) + "." +
         std::to_string(version % 100);
}

NcclLibrary open_library() {
  NcclLibrary nccl;
  void* const library = ::dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    nccl.problem = ::dlerror();
    return nccl;
  }
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, name));
    if (function == nullptr) nccl.problem = std::string(kFile) + " has no " + name;
  };
  find(nccl.get_version, "ncclGetVersion");
  find(nccl.error_text, "ncclGetErrorString");
  find(nccl.get_unique_id, "ncclGetUniqueId");
  find(nccl.init_rank, "ncclCommInitRankConfig");
  find(nccl.async_error, "ncclCommGetAsyncError");
  find(nccl.abort, "ncclCommAbort");
  find(nccl.send, "ncclSend");
  find(nccl.receive, "ncclRecv");
  if (!nccl.problem.empty()) return nccl;
  if (nccl.get_version(&nccl.version) != ncclSuccess || nccl.version < kLeastVersion) {
    nccl.problem = std::string(kFile) + " is version " + version_text(nccl.version) + ", but " +
                   version_text(kLeastVersion) + " is the least that can be used";
  }
  return nccl;
}

}  // namespace

const NcclLibrary& nccl_library() {
  static const NcclLibrary nccl = open_library();
  return nccl;
}

void check_nccl(ncclResult_t result, const char* call, SourceLocation where) {
  if (result == ncclSuccess) [[likely]]
    return;
  std::string what = "cuda";
  int device = 0;
  if (cudaGetDevice(&device) == cudaSuccess) what.append(":").append(std::to_string(device));
  what.append(" ").append(call).append(": ").append(nccl_library().error_text(result));
  throw Error(ErrorCode::kDevice, what, where);
}

}  // namespace halfquad::cuda
