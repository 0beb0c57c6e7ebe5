#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>

#include "sharding/item_record.h"
#include "sharding/outbox.h"
#include "sharding/weight_files.h"

namespace halfquad {

/// Sends a pipeline's results to the ranks that write them. A result is offered first and travels only when its writer
/// has room for it, so that no rank holds more than its budget however many send to it. The pipeline's threads call
/// write() and keep(), the thread with the communicator the rest.
class ItemSender {
 public:
  explicit ItemSender(Outbox& outbox) : outbox_(outbox) {}

  /// Returns once `rank` has written the pieces. Throws kInterrupted after close().
  void write(int rank, std::span<const OutputPiece> pieces);
  /// An item whose pieces were written: `rank` makes it durable. Never blocks.
  void keep(int rank, const ItemRecord& record);
  /// Waits until every keep() has arrived; false after close().
  [[nodiscard]] bool finish();
  /// Lets every waiting thread go: nobody will answer any more.
  void close() noexcept;

  void granted(std::uint64_t ticket);
  void stored(std::uint64_t ticket);
  void kept();

 private:
  enum class State : std::uint8_t { kOffered, kGranted, kStored };
  void await(std::unique_lock<std::mutex>& lock, std::uint64_t ticket, State state);
  void advance(std::uint64_t ticket, State state);

  Outbox& outbox_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint64_t, State> tickets_;
  std::uint64_t next_ticket_ = 0;
  std::uint64_t unkept_ = 0;
  bool closed_ = false;
};

}  // namespace halfquad
