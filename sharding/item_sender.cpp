#include "sharding/item_sender.h"

#include <utility>

#include "sharding/job_tags.h"

namespace halfquad {
namespace {

[[noreturn]] void throw_stopped() { throw Error(ErrorCode::kInterrupted, "interrupted: the job was stopped"); }

std::vector<std::byte> item_of(std::uint64_t ticket, std::span<const OutputPiece> pieces, std::uint64_t bytes) {
  WireWriter out;
  out.reserve(bytes + sizeof(std::uint64_t) * (2 + 3 * pieces.size()));
  out.put(ticket);
  out.put(static_cast<std::uint64_t>(pieces.size()));
  for (const OutputPiece& piece : pieces) {
    out.put(static_cast<std::uint64_t>(piece.entry));
    out.put(piece.offset);
    out.put(piece.data);
  }
  return out.take();
}

}  // namespace

void ItemSender::write(int rank, std::span<const OutputPiece> pieces) {
  std::uint64_t bytes = 0;
  for (const OutputPiece& piece : pieces) bytes += piece.data.size();

  OutLink* const link = link_to(rank);
  if (link != nullptr) link->open();  // before room is reserved: it may take seconds
  const std::uint64_t ticket = offer(rank, bytes);
  await_change(ticket, State::kOffered);

  std::vector<std::byte> item = item_of(ticket, pieces, bytes);
  advance(ticket, State::kSent);
  if (link == nullptr || !link->send(ticket, item)) {
    post(rank, std::move(item));
  } else if (await_change(ticket, State::kSent) == State::kAgain) {
    advance(ticket, State::kSent);
    post(rank, std::move(item));
  }
  await_change(ticket, State::kSent);
  const std::lock_guard lock(mutex_);
  tickets_.erase(ticket);
}

std::uint64_t ItemSender::offer(int rank, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t ticket = next_ticket_++;
  tickets_[ticket] = State::kOffered;
  WireWriter out;
  out.put(ticket);
  out.put(bytes);
  outbox_.post(message_to(rank, Tag::kOffer, out));
  return ticket;
}

void ItemSender::post(int rank, std::vector<std::byte> item) {
  outbox_.post({rank, static_cast<int>(Tag::kItem), std::move(item)});
}

// Returns what comes after `state`.
ItemSender::State ItemSender::await_change(std::uint64_t ticket, State state) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return closed_ || tickets_.at(ticket) != state; });
  if (closed_) throw_stopped();
  return tickets_.at(ticket);
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
  for (auto& [rank, link] : links_) link.close();
  changed_.notify_all();
}

void ItemSender::granted(std::uint64_t ticket) { advance(ticket, State::kGranted); }

void ItemSender::stored(std::uint64_t ticket) { advance(ticket, State::kStored); }

void ItemSender::again(std::uint64_t ticket) { advance(ticket, State::kAgain); }

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

// Null without devices here.
OutLink* ItemSender::link_to(int rank) {
  const std::lock_guard lock(mutex_);
  if (closed_) throw_stopped();
  if (devices_ == nullptr) return nullptr;
  return &links_.try_emplace(rank, *devices_, outbox_, OutLink::Ranks{self_, rank}).first->second;
}

OutLink* ItemSender::known_link_to(int rank) {
  const std::lock_guard lock(mutex_);
  const auto found = links_.find(rank);
  return found == links_.end() ? nullptr : &found->second;
}

void ItemSender::link_answered(int rank, WireReader in) {
  if (OutLink* const link = known_link_to(rank)) link->answered(in);
}

void ItemSender::link_lost(int rank, WireReader in) {
  if (OutLink* const link = known_link_to(rank)) link->lost(in);
}

}  // namespace halfquad
