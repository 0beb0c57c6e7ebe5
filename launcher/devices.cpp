#include "launcher/devices.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "kernels/device_loader.h"
#include "launcher/help_formatter.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr char kMachine[] = "Machine";

/// The devices of a list; nothing for the words auto, none and all.
std::optional<std::set<int>> parse_list(const std::string& text) {
  if (text == "auto" || text == "none" || text == "all") return std::nullopt;
  std::set<int> devices;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (true) {
    int device = 0;
    const auto [next, error] = std::from_chars(at, end, device);
    HALFQUAD_REQUIRE(error == std::errc{} && device >= 0 && devices.insert(device).second, kUsage,
                     fmt::format("--devices: {} is not auto, none, all or a list such as 0,2", quoted(text)));
    if (next == end) return devices;
    HALFQUAD_REQUIRE(*next == ',', kUsage,
                     fmt::format("--devices: {} is not auto, none, all or a list such as 0,2", quoted(text)));
    at = next + 1;
  }
}

/// Host solvers that were asked for by name are what is wanted, unless devices were asked for too.
bool wants_devices(const DeviceOptions& options, const MachineOptions& machine) {
  if (options.devices == "none") return false;
  if (options.devices != "auto") return true;
  return machine.backend == "auto" && machine.isa.empty() && device_driver_present();
}

std::vector<DeviceInfo> choose(std::vector<DeviceInfo> found, const std::optional<std::set<int>>& wanted) {
  if (!wanted) return found;
  std::vector<DeviceInfo> chosen;
  for (const int index : *wanted) {
    const auto device =
        std::find_if(found.begin(), found.end(), [index](const DeviceInfo& info) { return info.index == index; });
    HALFQUAD_REQUIRE(device != found.end(), kUsage,
                     fmt::format("--devices names device {}, but this process sees {} (CUDA_VISIBLE_DEVICES and the "
                                 "batch system decide which)",
                                 index, found.size()));
    chosen.push_back(*device);
  }
  return chosen;
}

}  // namespace

void add_device_options(CLI::App& app, DeviceOptions& options) {
  app.add_option("--devices", options.devices,
                 "GPUs to solve on beside the host's cores: auto, none, all, or a list such as 0,2; ranks of one "
                 "machine divide them")
      ->capture_default_str()
      ->type_name("WHICH")
      ->group(kMachine);
  app.add_flag("--devices-only", options.only, "Where there are GPUs, leave all solving to them")->group(kMachine);
  app.add_option("--device-memory", options.memory, "Budget on each GPU, such as 4GiB")
      ->default_str("what helps, at most 80 % of what is free")
      ->type_name("SIZE")
      ->group(kMachine);
  app.add_option("--link", options.link,
                 "How gathered results travel between ranks that have GPUs: auto (from GPU to GPU where NCCL is "
                 "installed, otherwise by MPI) or mpi")
      ->capture_default_str()
      ->check(quiet(CLI::IsMember({"auto", "mpi"})))
      ->type_name("HOW")
      ->group(kMachine);
}

void check_device_options(const DeviceOptions& options) {
  static_cast<void>(parse_list(options.devices));
  if (!options.memory.empty()) static_cast<void>(parse_size_option(options.memory, "--device-memory"));
}

FoundDevices find_devices(const DeviceOptions& options, const MachineOptions& machine,
                          const std::function<void(const std::string&)>& warn) {
  if (!wants_devices(options, machine)) return {};
  const bool required = options.devices != "auto";
  const auto missing = [&](const std::string& what) -> FoundDevices {
    HALFQUAD_REQUIRE(
        !required, kUsage,
        fmt::format("--devices {}: {}; pass --devices none to solve on the host alone", options.devices, what));
    warn(what + "; solving on the host alone");
    return {};
  };
  const LoadedDevices loaded = load_device_module(find_device_module());
  if (loaded.module == nullptr) return missing("no GPU can be used: " + loaded.detail);
  std::vector<DeviceInfo> devices;
  try {
    devices = loaded.module->devices();
  } catch (const Error& error) {
    return missing(fmt::format("no GPU can be used: {}", error.what()));
  }
  devices = choose(std::move(devices), parse_list(options.devices));
  if (devices.empty()) return missing("the driver shows no GPU to this process");
  return {loaded.module, std::move(devices)};
}

std::unique_ptr<DeviceSet> make_device_set(const DeviceOptions& options, const MachineOptions& machine,
                                           const std::function<void(const std::string&)>& warn) {
  FoundDevices found = find_devices(options, machine, warn);
  if (found.devices.empty()) return nullptr;
  DeviceSetOptions set;
  if (!options.memory.empty()) set.memory_bytes = parse_size_option(options.memory, "--device-memory");
  set.links = options.link == "auto";
  set.make_host_solver = machine.solver_factory();
  set.warn = warn;
  return std::make_unique<DeviceSet>(*found.module, std::move(found.devices), std::move(set));
}

}  // namespace halfquad
