#include "runtime/cuda/nccl_link.h"
#include "runtime/error.h"

namespace halfquad::cuda {
namespace {

[[noreturn]] void refuse() { throw Error(ErrorCode::kUsage, "this build has no links between devices (NCCL)"); }

}  // namespace

std::vector<std::byte> nccl_link_identity(int /*device*/) { refuse(); }
AcceptedLink accept_nccl_link(int /*device*/, std::span<const std::byte> /*identity*/) { refuse(); }
std::unique_ptr<DeviceLink> join_nccl_link(int /*device*/, std::span<const std::byte> /*invitation*/) { refuse(); }

}  // namespace halfquad::cuda
