#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <vector>

#include "sharding/item_record.h"
#include "sharding/out_link.h"
#include "sharding/outbox.h"
#include "sharding/weight_files.h"

namespace halfquad {

/// Sends a pipeline's results to the ranks that write them. A result is offered first and travels only when its writer
/// has room for it, so that no rank holds more than its budget however many send to it. Where there is a link between
/// the ranks' devices, it travels over that. The pipeline's threads call write() and keep(), the thread with the
/// communicator the rest.
class ItemSender {
 public:
  /// `self`: this rank. `devices`: those that links may begin at. What is given must outlive this object.
  explicit ItemSender(Outbox& outbox, int self = 0, DeviceSet* devices = nullptr)
      : outbox_(outbox), self_(self), devices_(devices) {}

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
  void again(std::uint64_t ticket);
  void kept();
  void link_answered(int rank, WireReader in);
  void link_lost(int rank, WireReader in);

 private:
  enum class State : std::uint8_t { kOffered, kGranted, kSent, kAgain, kStored };
  [[nodiscard]] std::uint64_t offer(int rank, std::uint64_t bytes);
  void post(int rank, std::vector<std::byte> item);
  State await_change(std::uint64_t ticket, State state);
  void advance(std::uint64_t ticket, State state);
  [[nodiscard]] OutLink* link_to(int rank);
  [[nodiscard]] OutLink* known_link_to(int rank);

  Outbox& outbox_;
  const int self_;
  DeviceSet* const devices_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint64_t, State> tickets_;
  std::map<int, OutLink> links_;  // by rank; none goes before this object
  std::uint64_t next_ticket_ = 0;
  std::uint64_t unkept_ = 0;
  bool closed_ = false;
};

}  // namespace halfquad
