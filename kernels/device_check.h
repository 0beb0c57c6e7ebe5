#pragma once

#include <optional>
#include <string>

#include "kernels/device.h"
#include "kernels/solver.h"

namespace halfquad {

/// Has a device solve small tiles of known weights and compares every byte and sum with the host's. Returns what
/// differs ("4-bit codes of axis 1"), or nothing. Throws as DeviceSolver::solve() does.
[[nodiscard]] std::optional<std::string> check_device(DeviceSolver& device, Solver& host);

}  // namespace halfquad
