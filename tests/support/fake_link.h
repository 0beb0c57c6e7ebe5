#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "runtime/device_link.h"

namespace halfquad::test {

/// How the ends of links that one process has misbehave. Pieces are counted over the life of each end, from 1.
struct LinkFaults {
  static constexpr int kNever = -1;
  int fails_at = kNever;  ///< This piece fails, and all after it; 0: open() does. The other end is told nothing.
  int hangs_at = kNever;  ///< From this piece on, or in open(), nothing happens until the end is aborted.
};

/// Bytes go through a FakeLink in pieces of this size.
inline constexpr std::size_t kFakePieceBytes = 4096;

/// Links within this process that pass bytes on in memory. An end whose other end fails waits until it is aborted, as
/// those of real devices do.
[[nodiscard]] AcceptedLink accept_fake_link(LinkFaults faults);
[[nodiscard]] std::unique_ptr<DeviceLink> join_fake_link(std::span<const std::byte> invitation, LinkFaults faults);

/// Ends that exist just now.
[[nodiscard]] int fake_links_alive() noexcept;

}  // namespace halfquad::test
