#pragma once

#include <filesystem>
#include <string>

#include "kernels/device.h"

namespace halfquad {

/// Whether the driver of the devices is installed. Opens nothing else, so that a machine without one never sees a
/// library of the devices.
[[nodiscard]] bool device_driver_present() noexcept;

/// Where the module should be: what the environment variable HALFQUAD_CUDA_MODULE names, else beside the running
/// program, else in the library folder of its installation, or of that of the library which holds this code. The
/// program's when none exists; the program and all it needs may have been moved together.
[[nodiscard]] std::filesystem::path find_device_module();

/// A module, or why there is none.
struct LoadedDevices {
  DeviceModule* module = nullptr;  ///< Lives as long as the process.
  std::string detail;              ///< One clause, when there is no module: "/opt/x.so: cannot open ...".
};

/// Opens a module, which is never closed again. Absence and other versions are answers, not errors.
[[nodiscard]] LoadedDevices load_device_module(const std::filesystem::path& file);

}  // namespace halfquad
