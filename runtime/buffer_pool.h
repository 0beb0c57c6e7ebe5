#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <vector>

#include "runtime/page_lock.h"

namespace halfquad {

class BufferPool;

/// A leased block of page-aligned host memory; goes back to its pool when destroyed. Move-only.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  /// As long as was asked for, whatever the block behind it occupies.
  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return {data_, size_}; }
  [[nodiscard]] bool empty() const noexcept { return data_ == nullptr; }
  /// Gives the memory back now.
  void reset() noexcept;

 private:
  friend class BufferPool;
  Buffer(BufferPool* pool, std::byte* data, std::size_t size) : pool_(pool), data_(data), size_(size) {}

  BufferPool* pool_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Bounded memory: all leased and cached buffers together never exceed the budget. Thread-safe.
///
/// Freed blocks are kept for reuse (mapping and zeroing fresh pages costs as much as reading them from a
/// fast disk) and are unmapped only when a lease of another size needs their budget.
class BufferPool {
 public:
  static constexpr std::size_t kAlignment = 4096;

  /// `pages`, when given, locks every block for as long as it is mapped, and must outlive the pool.
  explicit BufferPool(std::uint64_t budget_bytes, PageLock* pages = nullptr);
  ~BufferPool();  ///< @pre every Buffer has been returned.
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  /// Blocks until `bytes` (rounded up to pages) fit the budget.
  /// Throws kOutOfMemory when they never can or the system refuses, kInterrupted after close().
  [[nodiscard]] Buffer acquire(std::size_t bytes);

  /// Like acquire, but returns an empty Buffer instead of waiting.
  [[nodiscard]] Buffer try_acquire(std::size_t bytes);

  /// Wakes every waiting acquire() with kInterrupted; later ones throw at once.
  void close();

  [[nodiscard]] std::uint64_t budget_bytes() const noexcept { return budget_; }
  /// Largest sum of leased and cached bytes seen so far.
  [[nodiscard]] std::uint64_t peak_bytes() const;

 private:
  friend class Buffer;
  void release(std::byte* data, std::size_t bytes) noexcept;
  [[nodiscard]] std::byte* take_locked(std::size_t bytes);
  [[nodiscard]] std::byte* map(std::size_t size);
  void unmap(std::byte* data, std::size_t size) noexcept;
  void unmap_cached_locked(std::size_t wanted);

  mutable std::mutex mutex_;
  std::condition_variable freed_;
  const std::uint64_t budget_;
  PageLock* const pages_;
  std::uint64_t mapped_ = 0;  // leased + cached
  std::uint64_t leased_ = 0;
  std::uint64_t peak_ = 0;
  bool closed_ = false;
  std::map<std::size_t, std::vector<std::byte*>> cached_;  // by size
  std::set<std::byte*> page_locked_;
};

}  // namespace halfquad
