#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

namespace halfquad {

/// One end of a one-way connection between devices of two processes. Uses a bounded amount of device memory, whatever
/// is sent. One thread at a time, but for abort(). After an error it is of no use any more, and neither is the other
/// end; what was under way has to go another way. The destructor does not wait for the other end.
class DeviceLink {
 public:
  virtual ~DeviceLink() = default;

  /// Connects to the other end, which has to do the same. Everything below needs this first. Throws Error(kDevice), or
  /// kOutOfMemory, when that fails or the other end does not come within seconds.
  virtual void open() = 0;

  /// For the end that joined: sends bytes of the host. Returns when they may be changed. Throws Error(kDevice) when the
  /// connection failed, was aborted, or has not moved for seconds.
  virtual void send(std::span<const std::byte> data) = 0;
  /// For the end that accepted: fills `data` with what one send() of the same length sends. Throws as send() does.
  virtual void receive(std::span<std::byte> data) = 0;

  /// From any thread, at any time: lets go who is in a call of this, or comes to it, with an error. Returns at once.
  virtual void abort() noexcept = 0;
};

/// The receiving end of a new link.
struct AcceptedLink {
  std::unique_ptr<DeviceLink> link;
  std::vector<std::byte> invitation;  ///< What the sending end needs to join.
};

}  // namespace halfquad
