#pragma once

#include <mutex>
#include <utility>
#include <vector>

#include "runtime/communicator.h"

namespace halfquad {

/// Messages that any thread may leave for the one that owns the communicator.
class Outbox {
 public:
  void post(Message message) {
    const std::lock_guard lock(mutex_);
    messages_.push_back(std::move(message));
  }
  [[nodiscard]] std::vector<Message> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(messages_, {});
  }

 private:
  std::mutex mutex_;
  std::vector<Message> messages_;
};

}  // namespace halfquad
