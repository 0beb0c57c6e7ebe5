#include "sharding/item_receiver.h"

#include <utility>

#include <fmt/format.h>

#include "sharding/job_tags.h"

namespace halfquad {

ItemReceiver::ItemReceiver(WeightFiles& files, RecordKeeper& keeper, Outbox& outbox, const Options& options,
                           OnError on_error)
    : files_(files), keeper_(keeper), outbox_(outbox), options_(options), on_error_(std::move(on_error)) {
  for (int i = 0; i < options.threads; ++i) threads_.emplace_back([this, i] { loop(i); });
}

void ItemReceiver::end() noexcept {
  std::map<int, std::unique_ptr<InLink>> links;
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    links = std::exchange(links_, {});
  }
  links.clear();  // waits for their threads, which come here with what they have
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

void ItemReceiver::offered(int rank, WireReader in) {
  const auto ticket = in.get<std::uint64_t>();
  const std::lock_guard lock(mutex_);
  offers_.push_back({rank, ticket, in.get<std::uint64_t>()});
  grant_locked();
}

void ItemReceiver::grant_locked() {
  while (!offers_.empty() && !ending_) {
    const Offer& offer = offers_.front();
    if (granted_bytes_ > 0 && granted_bytes_ + offer.bytes > options_.budget_bytes) return;
    granted_bytes_ += offer.bytes;
    WireWriter out;
    out.put(offer.ticket);
    outbox_.post(message_to(offer.rank, Tag::kGrant, out));
    offers_.pop_front();
  }
}

void ItemReceiver::arrived(Message message) { push({std::move(message)}); }

void ItemReceiver::push(Item item) {
  {
    const std::lock_guard lock(mutex_);
    items_.push_back(std::move(item));
  }
  changed_.notify_one();
}

void ItemReceiver::link_asked(int rank, WireReader in) {
  const std::span<const std::byte> identity = in.get_data();
  const std::lock_guard lock(mutex_);
  if (ending_) return;
  if (options_.devices == nullptr || links_.size() >= kMostLinks) {
    WireWriter out;
    out.put(std::string_view());
    outbox_.post(message_to(rank, Tag::kLinkLost, out));
    return;
  }
  links_[rank] = std::make_unique<InLink>(*options_.devices, outbox_, rank, identity, [this](Message message) {
    push({std::move(message), true});
  });
}

void ItemReceiver::announced(int rank, WireReader in) {
  const auto ticket = in.get<std::uint64_t>();
  const std::lock_guard lock(mutex_);
  if (const auto link = links_.find(rank); link != links_.end()) {
    link->second->announced(ticket, in.get<std::uint64_t>());
  }
}

void ItemReceiver::link_ended(int rank) {
  const std::lock_guard lock(mutex_);
  if (const auto link = links_.find(rank); link != links_.end()) link->second->end();
}

void ItemReceiver::keep(int rank, WireReader in) {
  keeper_.add(ItemRecord::read(in));
  outbox_.post(message_to(rank, Tag::kKept));
}

std::uint64_t ItemReceiver::bytes_received() const {
  const std::lock_guard lock(mutex_);
  return received_bytes_;
}

std::uint64_t ItemReceiver::bytes_by_link() const {
  const std::lock_guard lock(mutex_);
  return link_bytes_;
}

void ItemReceiver::loop(int thread) {
  const std::string lane = fmt::format("receiver {}", thread);
  try {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return ending_ || !items_.empty(); });
      if (ending_) return;
      Item item = std::move(items_.front());
      items_.pop_front();
      lock.unlock();
      const auto start = std::chrono::steady_clock::now();
      const std::uint64_t bytes = write(item.message);
      if (options_.trace != nullptr) {
        options_.trace->add(lane, fmt::format("write for rank {}", item.message.rank), start,
                            std::chrono::steady_clock::now());
      }
      item.message = {};  // before its room is given to the next
      lock.lock();
      granted_bytes_ -= bytes;
      received_bytes_ += bytes;
      if (item.by_link) link_bytes_ += bytes;
      grant_locked();
    }
  } catch (...) {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(ending_, true)) return;
    }
    changed_.notify_all();
    on_error_(std::current_exception());
  }
}

// Returns the bytes of the pieces.
std::uint64_t ItemReceiver::write(const Message& message) {
  WireReader in(message.data);
  const auto ticket = in.get<std::uint64_t>();
  std::vector<OutputPiece> pieces(in.count(3 * sizeof(std::uint64_t)));
  std::uint64_t bytes = 0;
  for (OutputPiece& piece : pieces) {
    piece.entry = in.get<std::uint64_t>();
    in.get(piece.offset);
    piece.data = in.get_data();
    bytes += piece.data.size();
  }
  files_.write(pieces);
  WireWriter out;
  out.put(ticket);
  outbox_.post(message_to(message.rank, Tag::kStored, out));
  return bytes;
}

}  // namespace halfquad
