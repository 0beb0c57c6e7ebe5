#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "runtime/buffer_pool.h"
#include "runtime/page_lock.h"

namespace halfquad {

/// Page-locked memory of one device worker, beside the pipeline's budget: what a device leaves there is packed before
/// the next tiles go out. Grows to what the largest of these take, never shrinks.
class DeviceScratch {
 public:
  /// `pages` must outlive it.
  explicit DeviceScratch(PageLock& pages) : pages_(pages) {}

  /// At least `bytes`; what was in it is lost. Throws kOutOfMemory.
  [[nodiscard]] std::byte* reserve(std::uint64_t bytes) {
    if (memory_.bytes().size() < bytes) {
      memory_.reset();
      pool_ = std::make_unique<BufferPool>(bytes + BufferPool::kAlignment, &pages_);
      memory_ = pool_->acquire(bytes);
    }
    return memory_.bytes().data();
  }

 private:
  PageLock& pages_;
  std::unique_ptr<BufferPool> pool_;
  Buffer memory_;  // goes back to the pool first
};

}  // namespace halfquad
