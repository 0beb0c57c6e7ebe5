#include "runtime/buffer_pool.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <new>
#include <optional>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::size_t kHugePageBytes = 2 << 20;

// The bytes a lease occupies; nothing when rounding up overflows. An empty lease still gets an address of its own.
std::optional<std::size_t> block_bytes(std::size_t bytes) {
  const auto padded = checked_add(std::max<std::size_t>(bytes, 1), BufferPool::kAlignment - 1);
  if (!padded) return std::nullopt;
  return *padded / BufferPool::kAlignment * BufferPool::kAlignment;
}

// Large blocks are made of huge pages where the system has them for who asks: a page fault for every 4 KiB would cost
// as much as the first pass over the weights.
std::byte* map_pages(std::size_t size) noexcept {
  const bool large = size >= kHugePageBytes;
  void* data = nullptr;  // std::aligned_alloc wants sizes that are multiples of the alignment
  if (::posix_memalign(&data, large ? kHugePageBytes : BufferPool::kAlignment, size) != 0) return nullptr;
  if (large) ::madvise(data, size, MADV_HUGEPAGE);
  return static_cast<std::byte*>(data);
}

void unmap_pages(std::byte* data, std::size_t size) noexcept {
  // free() may keep a block in its heap for later; without this its pages would stay resident beside the budget.
  // Where pages are larger than blocks, it would take the neighbours' bytes too.
  if (::sysconf(_SC_PAGESIZE) == static_cast<long>(BufferPool::kAlignment)) ::madvise(data, size, MADV_DONTNEED);
  std::free(data);
}

}  // namespace

Buffer::Buffer(Buffer&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    reset();
    pool_ = std::exchange(other.pool_, nullptr);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

Buffer::~Buffer() { reset(); }

void Buffer::reset() noexcept {
  if (data_ == nullptr) return;
  pool_->release(std::exchange(data_, nullptr), std::exchange(size_, 0));
  pool_ = nullptr;
}

BufferPool::BufferPool(std::uint64_t budget_bytes, PageLock* pages) : budget_(budget_bytes), pages_(pages) {}

BufferPool::~BufferPool() {
  HALFQUAD_DCHECK(leased_ == 0);
  for (const auto& [size, blocks] : cached_) {
    for (std::byte* data : blocks) unmap(data, size);
  }
}

Buffer BufferPool::acquire(std::size_t bytes) {
  std::unique_lock lock(mutex_);
  std::byte* data = nullptr;
  freed_.wait(lock, [&] {
    data = take_locked(bytes);
    return data != nullptr;
  });
  return {this, data, bytes};
}

Buffer BufferPool::try_acquire(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  std::byte* data = take_locked(bytes);
  return data == nullptr ? Buffer() : Buffer(this, data, bytes);
}

void BufferPool::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  freed_.notify_all();
}

std::uint64_t BufferPool::peak_bytes() const {
  const std::lock_guard lock(mutex_);
  return peak_;
}

std::byte* BufferPool::take_locked(std::size_t bytes) {
  HALFQUAD_REQUIRE(!closed_, kInterrupted, "interrupted while waiting for a buffer of " + human_bytes(bytes));
  const std::optional<std::size_t> size = block_bytes(bytes);
  HALFQUAD_REQUIRE(size && *size <= budget_, kOutOfMemory,
                   "a buffer of " + human_bytes(bytes) + " does not fit the memory budget of " + human_bytes(budget_) +
                       "; raise --memory above " + human_bytes(bytes));
  std::byte* data = nullptr;
  if (const auto found = cached_.find(*size); found != cached_.end()) {
    data = found->second.back();
    found->second.pop_back();
    if (found->second.empty()) cached_.erase(found);
  } else {
    if (*size > budget_ - leased_) return nullptr;
    unmap_cached_locked(*size);
    data = map(*size);
    HALFQUAD_REQUIRE(data != nullptr, kOutOfMemory,
                     "the system refused a buffer of " + human_bytes(*size) + " with " + human_bytes(mapped_) +
                         " in use; lower --memory or free memory on this machine");
    mapped_ += *size;
    peak_ = std::max(peak_, mapped_);
  }
  leased_ += *size;
  return data;
}

std::byte* BufferPool::map(std::size_t size) {
  std::byte* data = map_pages(size);
  if (data == nullptr || pages_ == nullptr || !pages_->lock({data, size})) return data;
  try {
    page_locked_.insert(data);
  } catch (const std::bad_alloc&) {
    pages_->unlock({data, size});
  }
  return data;
}

void BufferPool::unmap(std::byte* data, std::size_t size) noexcept {
  if (page_locked_.erase(data) > 0) pages_->unlock({data, size});
  unmap_pages(data, size);
}

void BufferPool::unmap_cached_locked(std::size_t wanted) {
  // Largest first: the fewest blocks have to be mapped again later.
  while (wanted > budget_ - mapped_ && !cached_.empty()) {
    const auto largest = std::prev(cached_.end());
    unmap(largest->second.back(), largest->first);
    mapped_ -= largest->first;
    largest->second.pop_back();
    if (largest->second.empty()) cached_.erase(largest);
  }
}

void BufferPool::release(std::byte* data, std::size_t bytes) noexcept {
  const std::size_t size = *block_bytes(bytes);
  const std::lock_guard lock(mutex_);
  leased_ -= size;
  try {
    cached_[size].push_back(data);
  } catch (const std::bad_alloc&) {
    if (const auto entry = cached_.find(size); entry != cached_.end() && entry->second.empty()) cached_.erase(entry);
    unmap(data, size);
    mapped_ -= size;
  }
  freed_.notify_all();
}

}  // namespace halfquad
