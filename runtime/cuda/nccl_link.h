#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "runtime/device_link.h"

namespace halfquad::cuda {

/// DeviceModule::link_identity(), accept_link() and join_link() by NCCL: a communicator of two for every link, so that
/// each has an order of its own whatever other links do.
[[nodiscard]] std::vector<std::byte> nccl_link_identity(int device);
[[nodiscard]] AcceptedLink accept_nccl_link(int device, std::span<const std::byte> identity);
[[nodiscard]] std::unique_ptr<DeviceLink> join_nccl_link(int device, std::span<const std::byte> invitation);

}  // namespace halfquad::cuda
