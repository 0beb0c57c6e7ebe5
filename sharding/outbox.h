#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

#include "runtime/communicator.h"

namespace halfquad {

/// Messages that any thread may leave for the one that owns the communicator.
class Outbox {
 public:
  void post(Message message) {
    {
      const std::lock_guard lock(mutex_);
      messages_.push_back(std::move(message));
    }
    changed_.notify_one();
  }
  [[nodiscard]] std::vector<Message> take() {
    const std::lock_guard lock(mutex_);
    woken_ = false;
    return std::exchange(messages_, {});
  }

  /// Ends a rest(): something else has changed.
  void wake() {
    {
      const std::lock_guard lock(mutex_);
      woken_ = true;
    }
    changed_.notify_one();
  }
  /// For the owner, after it found nothing to do: waits until there is something here, or until it is time to look for
  /// messages of other ranks again. That is soon while messages come and go, and later when none do: to look thousands
  /// of times a second would cost a solver's core a tenth of its time. `moving`: messages are on their way, which takes
  /// looking often.
  void rest(bool moving) {
    if (moving) pause_ = kMovingPause;
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, pause_, [this] { return woken_ || !messages_.empty(); });
    woken_ = false;
    pause_ = std::min(2 * pause_, kLongestPause);
  }
  /// For the owner: a message came.
  void stay_alert() noexcept { pause_ = kShortestPause; }

 private:
  static constexpr std::chrono::microseconds kMovingPause{50};
  static constexpr std::chrono::microseconds kShortestPause{250};
  static constexpr std::chrono::microseconds kLongestPause{4'000};

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Message> messages_;
  bool woken_ = false;
  std::chrono::microseconds pause_ = kShortestPause;  // of the owner alone
};

}  // namespace halfquad
