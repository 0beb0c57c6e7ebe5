#pragma once

#include <string>

#include <nccl.h>

#include "runtime/error.h"

namespace halfquad::cuda {

/// The functions of NCCL, once it is open; it stays open until the process ends. It is opened when it is first wanted,
/// so that whoever needs no links does not need the library either.
struct NcclLibrary {
  decltype(&ncclGetVersion) get_version = nullptr;
  decltype(&ncclGetErrorString) error_text = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) init_rank = nullptr;
  decltype(&ncclCommGetAsyncError) async_error = nullptr;
  decltype(&ncclCommAbort) abort = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) receive = nullptr;
  int version = 0;      ///< As ncclGetVersion() counts.
  std::string problem;  ///< Why it cannot be used; empty when it can.
};

/// Thread-safe.
[[nodiscard]] const NcclLibrary& nccl_library();

/// Throws kDevice unless `result` is success: "cuda:1 ncclSend: unhandled system error". `call`: the function's name.
/// @pre nccl_library().problem is empty.
void check_nccl(ncclResult_t result, const char* call, SourceLocation where = SourceLocation::current());

}  // namespace halfquad::cuda
