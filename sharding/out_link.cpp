#include "sharding/out_link.h"

#include <optional>
#include <utility>

#include <fmt/format.h>

#include "sharding/job_tags.h"

namespace halfquad {

void OutLink::open() {
  const std::lock_guard turn(turn_);
  {
    const std::lock_guard lock(mutex_);
    if (state_ != State::kNew) return;
    state_ = State::kAsked;
  }
  try {
    connect();
  } catch (const Error& error) {
    fail(error.what());
  }
}

void OutLink::connect() {
  const std::optional<DeviceSet::LinkOffer> offer = devices_.offer_link();
  if (!offer) {
    static_cast<void>(end());
    return;
  }
  WireWriter ask;
  ask.put(std::span(offer->identity));
  outbox_.post(message_to(ranks_.writer, Tag::kLinkAsk, ask));
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return state_ != State::kAsked; });
  if (state_ != State::kInvited) return;
  link_ = devices_.join_link(offer->device, invitation_);
  DeviceLink& link = *link_;
  lock.unlock();
  link.open();
  lock.lock();
  if (state_ == State::kInvited) state_ = State::kOpen;
}

bool OutLink::send(std::uint64_t ticket, std::span<const std::byte> item) {
  const std::lock_guard turn(turn_);
  DeviceLink* link = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (state_ != State::kOpen) return false;
    link = link_.get();
  }
  WireWriter announcement;
  announcement.put(ticket);
  announcement.put(static_cast<std::uint64_t>(item.size()));
  outbox_.post(message_to(ranks_.writer, Tag::kLinkItem, announcement));
  try {
    link->send(item);
  } catch (const Error& error) {
    fail(error.what());
  }
  return true;
}

void OutLink::answered(WireReader in) {
  const std::span<const std::byte> invitation = in.get_data();
  const std::lock_guard lock(mutex_);
  if (state_ != State::kAsked) return;
  state_ = State::kInvited;
  invitation_.assign(invitation.begin(), invitation.end());
  changed_.notify_all();
}

void OutLink::lost(WireReader in) {
  std::string why;
  in.get(why);
  if (end() && !why.empty()) warn(why);
}

void OutLink::close() noexcept { static_cast<void>(end()); }

// Returns whether this is news.
bool OutLink::end() noexcept {
  const std::lock_guard lock(mutex_);
  if (link_) link_->abort();
  changed_.notify_all();
  return std::exchange(state_, State::kGone) != State::kGone;
}

// For the thread that has its turn.
void OutLink::fail(const std::string& why) {
  const bool first = end();
  std::unique_ptr<DeviceLink> link;
  {
    const std::lock_guard lock(mutex_);
    link = std::move(link_);
  }
  link.reset();  // takes its time, which nobody else should have to wait for
  if (!first) return;
  warn(why);
  outbox_.post(message_to(ranks_.writer, Tag::kLinkEnd));
}

void OutLink::warn(const std::string& why) {
  devices_.warn(
      fmt::format("the results of rank {} go to rank {} by MPI from now on, as the link between their devices "
                  "failed: {}",
                  ranks_.self, ranks_.writer, why));
}

}  // namespace halfquad
