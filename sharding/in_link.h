#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "runtime/device_link.h"
#include "sharding/device_set.h"
#include "sharding/outbox.h"

namespace halfquad {

/// The link from the devices of a rank that sends its results (which has an OutLink) to those of this rank, which
/// writes them, with a thread of its own. It answers every announced item: what arrived is passed on, what did not, for
/// whatever reason, is asked for again. The thread with the communicator calls its functions.
class InLink {
 public:
  /// Called with the message of an item, by the thread of this object.
  using OnItem = std::function<void(Message)>;

  /// `identity`: of the sender's device. `devices` and `outbox` must outlive this object.
  InLink(DeviceSet& devices, Outbox& outbox, int sender, std::span<const std::byte> identity, OnItem on_item);
  ~InLink();  ///< Lets the thread go and waits for it.
  InLink(const InLink&) = delete;
  InLink& operator=(const InLink&) = delete;

  /// An item is about to come, in so many bytes.
  void announced(std::uint64_t ticket, std::uint64_t bytes);
  /// The sender has given the link up.
  void end() noexcept;

 private:
  struct Announced {
    std::uint64_t ticket = 0;
    std::uint64_t bytes = 0;
  };
  void run();
  void serve();
  [[nodiscard]] bool connect();
  [[nodiscard]] std::optional<Announced> next();
  void received();
  void give_up(const std::string& why);
  void ask_again(std::uint64_t ticket);

  DeviceSet& devices_;
  Outbox& outbox_;
  const int sender_;
  const std::vector<std::byte> identity_;
  const OnItem on_item_;
  std::mutex mutex_;  // guards what follows; link_ is replaced only by the thread, too
  std::condition_variable changed_;
  bool gone_ = false;
  std::deque<Announced> coming_;  // until they are here
  std::unique_ptr<DeviceLink> link_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace halfquad
