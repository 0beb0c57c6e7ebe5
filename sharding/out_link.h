#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "runtime/device_link.h"
#include "sharding/device_set.h"
#include "sharding/outbox.h"
#include "sharding/wire.h"

namespace halfquad {

/// The link from this rank's devices to those of a rank that writes its results (which has an InLink). It is made when
/// it is first wanted. When it fails, on whichever side, this gives one warning, and messages have to go without it
/// from then on. Senders' threads call open() and send(), the thread with the communicator the rest.
class OutLink {
 public:
  struct Ranks {
    int self = 0;
    int writer = 0;
  };
  /// `devices` and `outbox` must outlive this object.
  OutLink(DeviceSet& devices, Outbox& outbox, Ranks ranks) : devices_(devices), outbox_(outbox), ranks_(ranks) {}

  /// Makes the link, unless that was tried before; returns when it is known whether there is one, or after close().
  void open();
  /// Sends `item`, the message of `ticket`. false: there is no link (any more), nothing was done. true: the writer
  /// answers whether it got it, and wants it again if it did not.
  [[nodiscard]] bool send(std::uint64_t ticket, std::span<const std::byte> item);

  void answered(WireReader in);  ///< Tag::kLinkAnswer.
  void lost(WireReader in);      ///< Tag::kLinkLost.
  /// Lets every waiting thread go, without a warning.
  void close() noexcept;

 private:
  enum class State : std::uint8_t { kNew, kAsked, kInvited, kOpen, kGone };
  void connect();
  void fail(const std::string& why);
  void warn(const std::string& why);
  [[nodiscard]] bool end() noexcept;

  DeviceSet& devices_;
  Outbox& outbox_;
  const Ranks ranks_;
  std::mutex turn_;   // of the threads that send: what is announced first also goes first
  std::mutex mutex_;  // guards what follows; link_ is replaced only by a thread that has its turn, too
  std::condition_variable changed_;
  State state_ = State::kNew;
  std::vector<std::byte> invitation_;
  std::unique_ptr<DeviceLink> link_;
};

}  // namespace halfquad
