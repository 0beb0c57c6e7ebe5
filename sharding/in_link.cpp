#include "sharding/in_link.h"

#include <exception>
#include <utility>

#include "sharding/job_tags.h"

namespace halfquad {

InLink::InLink(DeviceSet& devices, Outbox& outbox, int sender, std::span<const std::byte> identity, OnItem on_item)
    : devices_(devices),
      outbox_(outbox),
      sender_(sender),
      identity_(identity.begin(), identity.end()),
      on_item_(std::move(on_item)),
      thread_([this] { run(); }) {}

InLink::~InLink() {
  end();
  thread_.join();
}

void InLink::announced(std::uint64_t ticket, std::uint64_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    if (!gone_) {
      coming_.push_back({ticket, bytes});
      changed_.notify_one();
      return;
    }
  }
  ask_again(ticket);
}

void InLink::end() noexcept {
  const std::lock_guard lock(mutex_);
  gone_ = true;
  if (link_) link_->abort();
  changed_.notify_one();
}

void InLink::run() {
  std::string why;
  try {
    serve();
  } catch (const std::exception& error) {
    why = error.what();
  }
  give_up(why);
}

void InLink::serve() {
  if (!connect()) return;
  while (const std::optional<Announced> item = next()) {
    std::vector<std::byte> data(item->bytes);
    link_->receive(data);
    received();
    on_item_({sender_, static_cast<int>(Tag::kItem), std::move(data)});
  }
}

bool InLink::connect() {
  std::optional<AcceptedLink> accepted = devices_.accept_link(identity_);
  if (!accepted) return false;
  {
    const std::lock_guard lock(mutex_);
    if (gone_) return false;
    link_ = std::move(accepted->link);
  }
  WireWriter answer;
  answer.put(std::span<const std::byte>(accepted->invitation));
  outbox_.post(message_to(sender_, Tag::kLinkAnswer, answer));
  link_->open();
  return true;
}

// Nothing when the link is over.
std::optional<InLink::Announced> InLink::next() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return gone_ || !coming_.empty(); });
  if (gone_) return std::nullopt;
  return coming_.front();
}

void InLink::received() {
  const std::lock_guard lock(mutex_);
  coming_.pop_front();
}

// The sender knows already when it was the one to end the link.
void InLink::give_up(const std::string& why) {
  std::deque<Announced> missing;
  std::unique_ptr<DeviceLink> link;
  bool known = false;
  {
    const std::lock_guard lock(mutex_);
    known = std::exchange(gone_, true);
    missing = std::exchange(coming_, {});
    link = std::move(link_);
  }
  link.reset();  // takes its time, which nobody else should have to wait for
  if (!known) {
    WireWriter out;
    out.put(std::string_view(why));
    outbox_.post(message_to(sender_, Tag::kLinkLost, out));
  }
  for (const Announced& item : missing) ask_again(item.ticket);
}

void InLink::ask_again(std::uint64_t ticket) {
  WireWriter out;
  out.put(ticket);
  outbox_.post(message_to(sender_, Tag::kAgain, out));
}

}  // namespace halfquad
