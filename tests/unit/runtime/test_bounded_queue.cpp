#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "runtime/bounded_queue.h"

namespace halfquad {
namespace {

using namespace std::chrono_literals;

TEST(BoundedQueue, HandsItemsOutInOrder) {
  BoundedQueue<int> queue(3);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(queue.push(i));

  for (int i = 0; i < 3; ++i) EXPECT_EQ(queue.pop(), i);
}

TEST(BoundedQueue, CarriesMoveOnlyItems) {
  BoundedQueue<std::unique_ptr<int>> queue(1);
  queue.push(std::make_unique<int>(7));

  EXPECT_EQ(**queue.pop(), 7);
}

TEST(BoundedQueue, PushWaitsWhileFull) {
  BoundedQueue<int> queue(1);
  queue.push(1);
  std::atomic<bool> pushed{false};
  std::thread producer([&] {
    queue.push(2);
    pushed = true;
  });

  std::this_thread::sleep_for(30ms);
  const bool early = pushed;
  const auto first = queue.pop();
  producer.join();

  EXPECT_FALSE(early);
  EXPECT_EQ(first, 1);
  EXPECT_EQ(queue.pop(), 2);
}

TEST(BoundedQueue, PopWaitsForAnItem) {
  BoundedQueue<int> queue(1);
  std::thread producer([&] {
    std::this_thread::sleep_for(20ms);
    queue.push(5);
  });

  EXPECT_EQ(queue.pop(), 5);
  producer.join();
}

TEST(BoundedQueue, CloseDrainsThenEnds) {
  BoundedQueue<int> queue(2);
  queue.push(1);

  queue.close();

  EXPECT_FALSE(queue.push(2));
  EXPECT_EQ(queue.pop(), 1);
  EXPECT_EQ(queue.pop(), std::nullopt);
}

TEST(BoundedQueue, CloseWakesBothSides) {
  BoundedQueue<int> empty(1);
  BoundedQueue<int> full(1);
  full.push(1);
  bool pushed = true;
  std::optional<int> popped = 1;
  std::thread consumer([&] { popped = empty.pop(); });
  std::thread producer([&] { pushed = full.push(2); });
  std::this_thread::sleep_for(20ms);

  empty.close();
  full.close();
  consumer.join();
  producer.join();

  EXPECT_EQ(popped, std::nullopt);
  EXPECT_FALSE(pushed);
}

TEST(BoundedQueue, AbandonDropsWhatIsInside) {
  BoundedQueue<int> queue(2);
  queue.push(1);

  queue.abandon();

  EXPECT_EQ(queue.pop(), std::nullopt);
  EXPECT_FALSE(queue.push(2));
}

TEST(BoundedQueue, LosesNothingBetweenManyThreads) {
  constexpr int kEach = 500;
  BoundedQueue<int> queue(4);
  std::atomic<std::int64_t> sum{0};
  std::vector<std::thread> consumers;
  for (int i = 0; i < 3; ++i) {
    consumers.emplace_back([&] {
      while (const auto item = queue.pop()) sum += *item;
    });
  }
  std::vector<std::thread> producers;
  for (int i = 0; i < 3; ++i) {
    producers.emplace_back([&] {
      for (int item = 1; item <= kEach; ++item) queue.push(item);
    });
  }

  for (auto& producer : producers) producer.join();
  queue.close();
  for (auto& consumer : consumers) consumer.join();

  EXPECT_EQ(sum, 3 * kEach * (kEach + 1) / 2);
}

}  // namespace
}  // namespace halfquad
