#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <CLI/App.hpp>

#include "kernels/device.h"
#include "launcher/options.h"
#include "sharding/device_set.h"

namespace halfquad {

/// Which accelerators to use, as typed.
struct DeviceOptions {
  std::string devices = "auto";  ///< auto, none, all, or a list such as 0,2.
  std::string memory;            ///< Of each device, for this process; empty: most of what is free.
  bool only = false;             ///< The host's cores do not solve.
  std::string link = "auto";     ///< auto or mpi: how results get from one rank's devices to another's.
};

void add_device_options(CLI::App& app, DeviceOptions& options);  ///< --devices, --device-memory, --link

/// Throws kUsage for what is no choice of devices.
void check_device_options(const DeviceOptions& options);

/// Devices of a module; none when none is to be used.
struct FoundDevices {
  DeviceModule* module = nullptr;
  std::vector<DeviceInfo> devices;
};

/// The devices that are asked for and are there; missing ones are dealt with as make_device_set() says.
[[nodiscard]] FoundDevices find_devices(const DeviceOptions& options, const MachineOptions& machine,
                                        const std::function<void(const std::string&)>& warn);

/// The devices that are asked for and are there; null when none is to be used. With `auto` a machine without a driver
/// is not asked any further, and what is wrong with one is a warning at most; with `all` or a list it throws kUsage
/// saying what is missing. `machine` makes the solver that devices are compared with.
[[nodiscard]] std::unique_ptr<DeviceSet> make_device_set(const DeviceOptions& options, const MachineOptions& machine,
                                                         const std::function<void(const std::string&)>& warn);

}  // namespace halfquad
