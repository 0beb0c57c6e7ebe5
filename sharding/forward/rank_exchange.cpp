#include "sharding/forward/rank_exchange.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "sharding/wire.h"

namespace halfquad {
namespace {

constexpr int kFailed = 0;  // a tag below those of all steps

/// Waits for messages: soon again at first, then ever less often.
class Pause {
 public:
  void rest(bool moving) {
    std::this_thread::sleep_for(moving ? kShortest : next_);
    next_ = std::min(2 * next_, kLongest);
  }
  void reset() { next_ = kShortest; }

 private:
  static constexpr std::chrono::microseconds kShortest{20};
  static constexpr std::chrono::microseconds kLongest{2'000};
  std::chrono::microseconds next_ = kShortest;
};

}  // namespace

RankExchange::RankExchange(Communicator& communicator, std::string host, const StopFlag& stop)
    : communicator_(communicator), host_(std::move(host)), stop_(stop) {}

void RankExchange::send_to_all(int tag, const std::vector<std::byte>& data) {
  for (int rank = 0; rank < size(); ++rank) {
    if (rank != communicator_.rank()) communicator_.send({rank, tag, data});
  }
}

void RankExchange::take(Message message) {
  if (message.tag != kFailed) {
    early_.push_back(std::move(message));
    return;
  }
  WireReader in(message.data);
  const auto code = in.get<ErrorCode>();
  std::string host, what;
  in.get(host);
  in.get(what);
  ended_by_other_ = true;
  throw Error(code, fmt::format("rank {} on {}: {}", message.rank, host, what));
}

std::vector<std::vector<std::byte>> RankExchange::all_gather(std::vector<std::byte> mine) {
  std::vector<std::vector<std::byte>> all(static_cast<std::size_t>(size()));
  ++step_;
  if (size() > 1) send_to_all(step_, mine);
  all[static_cast<std::size_t>(rank())] = std::move(mine);
  collect(size() - 1, /*flush=*/true,
          [&all](Message& message) { all[static_cast<std::size_t>(message.rank)] = std::move(message.data); });
  return all;
}

void RankExchange::collect(int missing, bool flush, const std::function<void(Message&)>& keep) {
  Pause pause;
  while (missing > 0 || (flush && communicator_.unsent() > 0)) {
    const auto here = std::ranges::find(early_, step_, &Message::tag);
    if (here != early_.end()) {
      keep(*here);
      early_.erase(here);
      --missing;
      continue;
    }
    if (stop_.requested()) throw Error(ErrorCode::kInterrupted, "interrupted by a signal");
    if (std::optional<Message> message = communicator_.receive()) {
      take(std::move(*message));
      pause.reset();
    } else {
      pause.rest(communicator_.moving());
    }
  }
}

void RankExchange::leave() {
  ++step_;
  const auto ignore = [](Message&) {};
  if (rank() == 0) {
    // All that others sent has arrived where it was to, when they say so. What lets them go leaves in whatever is
    // received next: to receive here would take what they send to whoever comes after.
    collect(size() - 1, /*flush=*/false, ignore);
    send_to_all(step_, {});
  } else {
    communicator_.send({0, step_, {}});
    collect(1, /*flush=*/false, ignore);
  }
}

void RankExchange::fail(const Error& error) noexcept {
  constexpr std::chrono::seconds kPatience{10};
  if (ended_by_other_ || size() == 1) return;
  try {
    WireWriter out;
    out.put(error.code());
    out.put(std::string_view(host_));
    out.put(std::string_view(error.what()));
    send_to_all(kFailed, out.take());
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    Pause pause;
    while (communicator_.unsent() > 0 && std::chrono::steady_clock::now() < deadline) {
      static_cast<void>(communicator_.receive());
      pause.rest(true);
    }
  } catch (...) {  // the error that led here is the one to be told
    return;
  }
}

}  // namespace halfquad
