#include "sharding/item_sender.h"

#include <array>

#include "sharding/job_tags.h"

namespace halfquad {

void ItemSender::write(int rank, std::span<const OutputPiece> pieces) {
  std::uint64_t bytes = 0;
  for (const OutputPiece& piece : pieces) bytes += piece.data.size();

  std::unique_lock lock(mutex_);
  const std::uint64_t ticket = next_ticket_++;
  tickets_[ticket] = State::kOffered;
  WireWriter offer;
  offer.put(ticket);
  offer.put(bytes);
  outbox_.post(message_to(rank, Tag::kOffer, offer));
  await(lock, ticket, State::kGranted);
  lock.unlock();

  WireWriter out;
  out.reserve(bytes + sizeof(std::uint64_t) * (2 + 3 * pieces.size()));
  out.put(ticket);
  out.put(static_cast<std::uint64_t>(pieces.size()));
  for (const OutputPiece& piece : pieces) {
    out.put(static_cast<std::uint64_t>(piece.entry));
    out.put(piece.offset);
    out.put(piece.data);
  }
  outbox_.post(message_to(rank, Tag::kItem, out));

  lock.lock();
  await(lock, ticket, State::kStored);
  tickets_.erase(ticket);
}

void ItemSender::await(std::unique_lock<std::mutex>& lock, std::uint64_t ticket, State state) {
  changed_.wait(lock, [&] { return closed_ || tickets_.at(ticket) == state; });
  if (closed_) throw Error(ErrorCode::kInterrupted, "interrupted: the job was stopped");
}

void ItemSender::keep(int rank, const ItemRecord& record) {
  {
    const std::lock_guard lock(mutex_);
    ++unkept_;
  }
  WireWriter out;
  record.write(out);
  outbox_.post(message_to(rank, Tag::kKeep, out));
}

bool ItemSender::finish() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return closed_ || unkept_ == 0; });
  return unkept_ == 0;
}

void ItemSender::close() noexcept {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

void ItemSender::granted(std::uint64_t ticket) { advance(ticket, State::kGranted); }

void ItemSender::stored(std::uint64_t ticket) { advance(ticket, State::kStored); }

// A ticket may be gone: its thread left when this was closed.
void ItemSender::advance(std::uint64_t ticket, State state) {
  const std::lock_guard lock(mutex_);
  const auto found = tickets_.find(ticket);
  if (found != tickets_.end()) found->second = state;
  changed_.notify_all();
}

void ItemSender::kept() {
  const std::lock_guard lock(mutex_);
  if (unkept_ > 0) --unkept_;
  changed_.notify_all();
}

}  // namespace halfquad
