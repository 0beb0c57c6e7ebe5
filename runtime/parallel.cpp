#include "runtime/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "runtime/error.h"

namespace halfquad {
namespace {

// What the workers of one parallel_for share.
class Handout {
 public:
  Handout(std::int64_t count, const StopFlag& stop, const std::function<void(int, std::int64_t)>& body)
      : count_(count), stop_(stop), body_(body) {}

  void work(int worker) noexcept {
    try {
      while (!halted_.load(std::memory_order_relaxed) && !stop_.requested()) {
        const std::int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
        if (index >= count_) return;
        body_(worker, index);
      }
    } catch (...) {
      fail(std::current_exception());
    }
  }

  void fail(std::exception_ptr error) noexcept {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::move(error);
    halted_.store(true, std::memory_order_relaxed);
  }

  /// @pre no worker is running.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
    if (stop_.requested()) throw Error(ErrorCode::kInterrupted, "interrupted: a stop was requested");
  }

 private:
  const std::int64_t count_;
  const StopFlag& stop_;
  const std::function<void(int, std::int64_t)>& body_;
  std::atomic<std::int64_t> next_{0};
  std::atomic<bool> halted_{false};
  std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace

void parallel_for(int threads, std::int64_t count, const StopFlag& stop,
                  const std::function<void(int worker, std::int64_t index)>& body) {
  Handout handout(count, stop, body);
  const int workers = static_cast<int>(std::clamp<std::int64_t>(threads, 1, std::max<std::int64_t>(count, 1)));
  std::vector<std::thread> helpers;
  helpers.reserve(static_cast<std::size_t>(workers - 1));
  try {
    for (int worker = 1; worker < workers; ++worker) {
      helpers.emplace_back([&handout, worker] { handout.work(worker); });
    }
  } catch (const std::system_error& error) {
    handout.fail(std::make_exception_ptr(
        Error(ErrorCode::kOutOfMemory, "the system refused thread " + std::to_string(helpers.size() + 2) + " of " +
                                           std::to_string(workers) + " (" + error.what() + "); lower --threads")));
  } catch (...) {  // no memory for a thread: the helpers that run must still be joined
    handout.fail(std::current_exception());
  }
  handout.work(0);
  for (std::thread& helper : helpers) helper.join();
  handout.rethrow();
}

}  // namespace halfquad
