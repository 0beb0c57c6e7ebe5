#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "runtime/error.h"
#include "runtime/page_lock.h"
#include "sharding/device_assignment.h"

namespace halfquad {

struct DeviceSetOptions {
  int streams = 3;  ///< Workers a device: while one's tile is solved, others' move in and out.
  /// Of each device, for this process; 0: most of what it has, but no more than helps.
  std::uint64_t memory_bytes = 0;
  bool links = true;  ///< Results may travel from these devices to other ranks', or the other way.
  std::function<std::unique_ptr<Solver>()> make_host_solver;  ///< What devices are compared with.
  std::function<void(const std::string&)> warn;               ///< Called from any thread, one at a time.
};

/// The devices one rank solves on. Each is compared with the host before its first tile, and is given up for good when
/// its bytes differ or it fails; what it was doing is then up to the caller. Thread-safe.
class DeviceSet final : public PageLock {
 public:
  /// `devices`: those this process may use, out of module.devices().
  DeviceSet(DeviceModule& module, std::vector<DeviceInfo> devices, DeviceSetOptions options);

  /// What the ranks have to know of each other to divide the devices.
  [[nodiscard]] std::vector<SeenDevice> seen() const;
  /// Keeps only these, by their place in seen(). @pre no worker was opened.
  void keep(std::span<const std::size_t> places);

  /// Workers that want a solver of their own: number w belongs to device w % size().
  [[nodiscard]] int workers() const noexcept { return static_cast<int>(devices_.size()) * options_.streams; }

  /// Worker w's solver; null, with a warning for each device and reason, when it cannot have one.
  [[nodiscard]] std::unique_ptr<DeviceSolver> open(int worker);
  /// The device of worker w failed with `error`: its workers must not use it again.
  void lose(int worker, const Error& error);
  [[nodiscard]] bool lost(int worker) const;

  /// One of the devices, chosen in turn, for a link to another rank's.
  struct LinkOffer {
    int device = 0;
    std::vector<std::byte> identity;
  };
  /// DeviceModule::link_identity() and what follows it. Nothing when there can be no link: links are turned off, no
  /// device is left, or the module does not connect these. Throws kDevice.
  [[nodiscard]] std::optional<LinkOffer> offer_link();
  [[nodiscard]] std::optional<AcceptedLink> accept_link(std::span<const std::byte> identity);
  [[nodiscard]] std::unique_ptr<DeviceLink> join_link(int device, std::span<const std::byte> invitation) {
    return module_.join_link(device, invitation);
  }
  /// Passes a warning on. Thread-safe, and never waits for a device.
  void warn(const std::string& text);

  /// Small tiles of about this many weights in all may go to a device at once.
  static constexpr std::int64_t kBatchWeights = 4 << 20;

  [[nodiscard]] bool lock(std::span<std::byte> memory) noexcept override;
  void unlock(std::span<std::byte> memory) noexcept override;

 private:
  struct Device {
    DeviceInfo info;
    bool checked = false, lost = false, short_of_memory = false, cuts_tiles = false;
    int opened = 0;
  };
  [[nodiscard]] Device& device_of(int worker) { return devices_[static_cast<std::size_t>(worker) % devices_.size()]; }
  [[nodiscard]] std::uint64_t memory_of_worker(const Device& device) const;
  [[nodiscard]] std::unique_ptr<DeviceSolver> open_locked(Device& device);
  void warn_of_cuts_locked(Device& device, std::uint64_t has);
  void give_up_locked(Device& device, const std::string& why);
  [[nodiscard]] std::optional<int> next_link_device();

  DeviceModule& module_;
  const DeviceSetOptions options_;
  mutable std::mutex mutex_;  // guards the states in devices_
  std::mutex warn_mutex_;     // taken after mutex_
  std::vector<Device> devices_;
  std::size_t next_link_ = 0;
  std::atomic<bool> unpinned_{false};  // memory was refused
};

}  // namespace halfquad
