#include <atomic>
#include <chrono>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>

#include "runtime/buffer_pool.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

using namespace std::chrono_literals;
using test::error_of;
using testing::HasSubstr;

constexpr std::size_t kPage = BufferPool::kAlignment;

TEST(BufferPool, LeasesAlignedMemoryOfTheAskedLength) {
  BufferPool pool(1 << 20);

  const Buffer buffer = pool.acquire(5000);
  std::memset(buffer.bytes().data(), 0xAB, buffer.bytes().size());

  EXPECT_EQ(buffer.bytes().size(), 5000U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.bytes().data()) % kPage, 0U);
  EXPECT_EQ(pool.peak_bytes(), 2 * kPage);
}

TEST(BufferPool, EmptyLeaseIsStillALease) {
  BufferPool pool(kPage);

  const Buffer buffer = pool.acquire(0);

  EXPECT_FALSE(buffer.empty());
  EXPECT_TRUE(buffer.bytes().empty());
}

TEST(BufferPool, MoveHandsTheLeaseOn) {
  BufferPool pool(2 * kPage);
  Buffer first = pool.acquire(kPage);
  const std::byte* data = first.bytes().data();

  Buffer second = std::move(first);
  Buffer third = pool.acquire(kPage);
  third = std::move(second);

  EXPECT_EQ(third.bytes().data(), data);
  EXPECT_TRUE(second.empty());  // NOLINT(bugprone-use-after-move)
  EXPECT_FALSE(pool.try_acquire(kPage).empty()) << "the overwritten lease went back";
}

/// Notes what is locked; refuses blocks of one size.
class NotedLocks final : public PageLock {
 public:
  explicit NotedLocks(std::size_t refused = 0) : refused_(refused) {}
  [[nodiscard]] bool lock(std::span<std::byte> memory) noexcept override {
    if (memory.size() == refused_) return false;
    held_.insert({memory.data(), memory.size()});
    return true;
  }
  void unlock(std::span<std::byte> memory) noexcept override {
    EXPECT_EQ(held_.erase({memory.data(), memory.size()}), 1U);
  }
  [[nodiscard]] std::size_t held() const { return held_.size(); }

 private:
  const std::size_t refused_;
  std::set<std::pair<std::byte*, std::size_t>> held_;
};

TEST(BufferPool, LocksWholeBlocksFromMappingToUnmapping) {
  NotedLocks locks(3 * kPage);
  {
    BufferPool pool(4 * kPage, &locks);
    pool.acquire(5000).reset();
    EXPECT_EQ(locks.held(), 1U) << "a cached block stays locked";
    pool.acquire(2 * kPage).reset();
    EXPECT_EQ(locks.held(), 1U) << "the same block again";
    pool.acquire(3 * kPage).reset();  // takes the first block's place
    EXPECT_EQ(locks.held(), 0U);
    pool.acquire(kPage).reset();
    EXPECT_EQ(locks.held(), 1U);
  }
  EXPECT_EQ(locks.held(), 0U);
}

TEST(BufferPool, ReusesAFreedBlockOfTheSameSize) {
  BufferPool pool(8 * kPage);
  Buffer buffer = pool.acquire(2 * kPage);
  const std::byte* data = buffer.bytes().data();
  buffer.reset();

  const Buffer again = pool.acquire(2 * kPage);

  EXPECT_EQ(again.bytes().data(), data);
  EXPECT_EQ(pool.peak_bytes(), 2 * kPage);
}

TEST(BufferPool, UnmapsCachedBlocksOfOtherSizesUnderPressure) {
  BufferPool pool(4 * kPage);
  {
    const Buffer a = pool.acquire(kPage);
    const Buffer b = pool.acquire(3 * kPage);
  }

  const Buffer large = pool.acquire(4 * kPage);

  EXPECT_EQ(large.bytes().size(), 4 * kPage);
  EXPECT_EQ(pool.peak_bytes(), 4 * kPage);
}

TEST(BufferPool, TryAcquireAnswersInsteadOfWaiting) {
  BufferPool pool(2 * kPage);
  const Buffer held = pool.acquire(kPage);

  EXPECT_TRUE(pool.try_acquire(2 * kPage).empty());
  EXPECT_FALSE(pool.try_acquire(kPage).empty());
}

TEST(BufferPool, AcquireWaitsUntilTheBudgetIsFree) {
  BufferPool pool(2 * kPage);
  Buffer held = pool.acquire(kPage);
  std::atomic<bool> leased{false};
  std::thread waiter([&] {
    const Buffer buffer = pool.acquire(2 * kPage);
    leased = true;
  });

  std::this_thread::sleep_for(30ms);
  const bool early = leased;
  held.reset();
  waiter.join();

  EXPECT_FALSE(early);
  EXPECT_TRUE(leased);
}

TEST(BufferPool, CloseWakesWaitersAndRefusesLaterOnes) {
  BufferPool pool(kPage);
  const Buffer held = pool.acquire(kPage);
  std::atomic<ErrorCode> code{ErrorCode::kInternal};
  std::thread waiter([&] { code = error_of([&] { (void)pool.acquire(kPage); }).code(); });
  std::this_thread::sleep_for(20ms);

  pool.close();
  waiter.join();

  EXPECT_EQ(code, ErrorCode::kInterrupted);
  EXPECT_EQ(error_of([&] { (void)pool.acquire(kPage); }).code(), ErrorCode::kInterrupted);
  EXPECT_EQ(error_of([&] { (void)pool.try_acquire(kPage); }).code(), ErrorCode::kInterrupted);
}

TEST(BufferPool, ALeaseAboveTheBudgetIsRefusedWithAdvice) {
  BufferPool pool(1 << 20);

  const Error error = error_of([&] { (void)pool.acquire(3 << 20); });

  EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
  EXPECT_THAT(error.what(), HasSubstr("3.0 MiB"));
  EXPECT_THAT(error.what(), HasSubstr("1.0 MiB"));
  EXPECT_THAT(error.what(), HasSubstr("--memory"));
}

TEST(BufferPool, ALeaseWhoseRoundingOverflowsIsRefused) {
  BufferPool pool(std::numeric_limits<std::uint64_t>::max());

  const Error error = error_of([&] { (void)pool.acquire(std::numeric_limits<std::size_t>::max()); });

  EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // their allocators end the process instead
TEST(BufferPool, ALeaseTheSystemRefusesLeavesThePoolUsable) {
  BufferPool pool(std::numeric_limits<std::uint64_t>::max());

  const Error error = error_of([&] { (void)pool.acquire(std::size_t{1} << 61U); });

  EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
  EXPECT_THAT(error.what(), HasSubstr("--memory"));
  EXPECT_FALSE(pool.acquire(kPage).empty());
}
#endif

TEST(BufferPool, NeverExceedsItsBudgetUnderManyThreads) {
  constexpr std::uint64_t kBudget = 64 * kPage;
  BufferPool pool(kBudget);
  std::atomic<std::uint64_t> leased{0};
  std::atomic<bool> exceeded{false};
  std::vector<std::thread> threads;
  for (unsigned seed = 1; seed <= 4; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      for (int i = 0; i < 300; ++i) {
        Buffer buffer = pool.acquire((random() % 40 + 1) * kPage);
        const std::size_t size = buffer.bytes().size();
        if ((leased += size) > kBudget) exceeded = true;
        buffer.bytes().front() = std::byte{1};
        buffer.bytes().back() = std::byte{1};
        leased -= size;
      }
    });
  }

  for (auto& thread : threads) thread.join();

  EXPECT_FALSE(exceeded);
  EXPECT_LE(pool.peak_bytes(), kBudget);
  EXPECT_FALSE(pool.try_acquire(kBudget).empty()) << "everything came back";
}

}  // namespace
}  // namespace halfquad
