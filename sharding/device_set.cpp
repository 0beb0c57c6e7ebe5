#include "sharding/device_set.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "kernels/device_check.h"
#include "runtime/check.h"
#include "runtime/numa.h"
#include "runtime/text.h"
#include "sharding/tiles.h"

namespace halfquad {

DeviceSet::DeviceSet(DeviceModule& module, std::vector<DeviceInfo> devices, DeviceSetOptions options)
    : module_(module), options_(std::move(options)) {
  for (DeviceInfo& info : devices) devices_.push_back({.info = std::move(info)});
}

std::vector<SeenDevice> DeviceSet::seen() const {
  std::vector<SeenDevice> seen;
  for (const Device& device : devices_) {
    seen.push_back({device.info.bus_id, device.info.name, is_near_this_process(device.info.bus_id)});
  }
  return seen;
}

void DeviceSet::keep(std::span<const std::size_t> places) {
  std::vector<Device> kept;
  for (const std::size_t place : places) kept.push_back(std::move(devices_[place]));
  devices_ = std::move(kept);
}

// Every worker holds one batch; more than that would only be taken from others who share the device.
std::uint64_t DeviceSet::memory_of_worker(const Device& device) const {
  const std::uint64_t wanted = module_.wanted_bytes(2 * std::max(kBatchWeights, kTileWeights));
  const std::uint64_t all = options_.memory_bytes > 0 ? options_.memory_bytes : device.info.free_bytes / 10 * 8;
  return std::min(wanted, all / static_cast<std::uint64_t>(options_.streams));
}

std::unique_ptr<DeviceSolver> DeviceSet::open(int worker) {
  const std::lock_guard lock(mutex_);  // also keeps a device's workers back until it is checked
  Device& device = device_of(worker);
  if (device.lost) return nullptr;
  try {
    return open_locked(device);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory) {
      give_up_locked(device, error.what());
    } else if (device.opened == 0) {
      give_up_locked(device, fmt::format("it has no memory left ({})", error.what()));
    } else if (!std::exchange(device.short_of_memory, true)) {
      warn(fmt::format("device {} ({}) has memory for {} of {} streams only: {}", device.info.index, device.info.name,
                       device.opened, options_.streams, error.what()));
    }
    return nullptr;
  }
}

std::unique_ptr<DeviceSolver> DeviceSet::open_locked(Device& device) {
  std::unique_ptr<DeviceSolver> solver = module_.make_solver(device.info.index, memory_of_worker(device));
  if (!device.checked) {
    const auto host = options_.make_host_solver();
    if (const std::optional<std::string> different = check_device(*solver, *host)) {
      give_up_locked(device, fmt::format("it failed its self-check: {} differ from the host's", *different));
      return nullptr;
    }
    device.checked = true;
  }
  ++device.opened;
  warn_of_cuts_locked(device, solver->memory_bytes());
  return solver;
}

// With less memory than a full tile may take, tiles go through in parts.
void DeviceSet::warn_of_cuts_locked(Device& device, std::uint64_t has) {
  const std::uint64_t wanted = module_.wanted_bytes(kTileWeights);
  if (has >= wanted || std::exchange(device.cuts_tiles, true)) return;
  warn(
      fmt::format("device {} ({}) gives a stream {} of memory; with less than {} tiles are solved in parts, "
                  "more slowly",
                  device.info.index, device.info.name, human_bytes(has), human_bytes(wanted)));
}

void DeviceSet::lose(int worker, const Error& error) {
  const std::lock_guard lock(mutex_);
  give_up_locked(device_of(worker), error.what());
}

bool DeviceSet::lost(int worker) const {
  const std::lock_guard lock(mutex_);
  return devices_[static_cast<std::size_t>(worker) % devices_.size()].lost;
}

void DeviceSet::give_up_locked(Device& device, const std::string& why) {
  if (std::exchange(device.lost, true)) return;
  warn(fmt::format("device {} ({}, {}) is not used any more: {}; its tiles are solved elsewhere", device.info.index,
                   device.info.name, device.info.bus_id, why));
}

// Devices take turns, so that no one has all links.
std::optional<int> DeviceSet::next_link_device() {
  const std::lock_guard lock(mutex_);
  for (std::size_t tried = 0; tried < devices_.size(); ++tried) {
    const Device& device = devices_[next_link_++ % devices_.size()];
    if (!device.lost) return device.info.index;
  }
  return std::nullopt;
}

std::optional<DeviceSet::LinkOffer> DeviceSet::offer_link() {
  const std::optional<int> device = options_.links ? next_link_device() : std::nullopt;
  if (!device) return std::nullopt;
  try {
    return LinkOffer{*device, module_.link_identity(*device)};
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUsage) throw;
    return std::nullopt;
  }
}

std::optional<AcceptedLink> DeviceSet::accept_link(std::span<const std::byte> identity) {
  const std::optional<int> device = options_.links ? next_link_device() : std::nullopt;
  if (!device) return std::nullopt;
  try {
    return module_.accept_link(*device, identity);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUsage) throw;
    return std::nullopt;
  }
}

void DeviceSet::warn(const std::string& text) {
  const std::lock_guard lock(warn_mutex_);
  options_.warn(text);
}

bool DeviceSet::lock(std::span<std::byte> memory) noexcept {
  if (devices_.empty() || unpinned_.load(std::memory_order_relaxed)) return false;
  if (module_.lock_pages(devices_.front().info.index, memory)) return true;
  if (!unpinned_.exchange(true)) {
    try {
      warn(
          fmt::format("the system does not lock {} of buffers in memory (ulimit -l), so devices are fed more "
                      "slowly",
                      human_bytes(memory.size())));
    } catch (...) {
      // A warning that cannot be made is no reason to stop.
    }
  }
  return false;
}

void DeviceSet::unlock(std::span<std::byte> memory) noexcept {
  module_.unlock_pages(devices_.front().info.index, memory);
}

}  // namespace halfquad
