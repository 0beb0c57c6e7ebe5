#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include "runtime/parallel.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

using namespace std::chrono_literals;
using test::error_of;

TEST(ParallelFor, RunsEveryIndexOnce) {
  for (const int threads : {1, 2, 7}) {
    constexpr std::int64_t kCount = 1000;
    std::vector<std::atomic<int>> runs(kCount);

    parallel_for(threads, kCount, StopFlag(),
                 [&](int, std::int64_t index) { ++runs[static_cast<std::size_t>(index)]; });

    for (const auto& run : runs) EXPECT_EQ(run, 1);
  }
}

TEST(ParallelFor, DoesNothingForNoIndices) {
  for (const std::int64_t count : {0, -1}) {
    parallel_for(4, count, StopFlag(), [](int, std::int64_t) { FAIL(); });
  }
}

TEST(ParallelFor, NumbersItsWorkersBelowTheThreadCount) {
  std::mutex mutex;
  std::set<int> workers;
  std::atomic<int> waiting{0};

  parallel_for(3, 3, StopFlag(), [&](int worker, std::int64_t) {
    ++waiting;
    while (waiting < 3) std::this_thread::yield();  // so that no worker takes two
    const std::lock_guard lock(mutex);
    workers.insert(worker);
  });

  EXPECT_EQ(workers, (std::set<int>{0, 1, 2}));
}

TEST(ParallelFor, HandsIndicesOutInOrderToOneThread) {
  std::vector<std::int64_t> order;

  parallel_for(1, 5, StopFlag(), [&](int, std::int64_t index) { order.push_back(index); });

  EXPECT_EQ(order, (std::vector<std::int64_t>{0, 1, 2, 3, 4}));
}

TEST(ParallelFor, TreatsFewerThanOneThreadAsOne) {
  int runs = 0;

  parallel_for(0, 3, StopFlag(), [&](int, std::int64_t) { ++runs; });

  EXPECT_EQ(runs, 3);
}

TEST(ParallelFor, RethrowsTheFirstException) {
  std::atomic<bool> second_runs{false};
  std::atomic<bool> first_throws{false};

  const Error error = error_of([&] {
    parallel_for(2, 2, StopFlag(), [&](int, std::int64_t index) {
      if (index == 0) {
        while (!second_runs) std::this_thread::yield();
        first_throws = true;
        throw Error(ErrorCode::kIo, "first");
      }
      second_runs = true;
      while (!first_throws) std::this_thread::yield();
      std::this_thread::sleep_for(50ms);
      throw Error(ErrorCode::kBadInput, "second");
    });
  });

  EXPECT_STREQ(error.what(), "first");
}

TEST(ParallelFor, AnExceptionStopsTheHandOut) {
  std::atomic<int> runs{0};
  std::atomic<bool> throws{false};

  const Error error = error_of([&] {
    parallel_for(2, 1000, StopFlag(), [&](int, std::int64_t index) {
      ++runs;
      if (index == 0) {
        while (runs < 2) std::this_thread::yield();
        throws = true;
        throw Error(ErrorCode::kIo, "disk full");
      }
      while (!throws) std::this_thread::yield();
      std::this_thread::sleep_for(50ms);
    });
  });

  EXPECT_EQ(error.code(), ErrorCode::kIo);
  EXPECT_EQ(runs, 2);
}

TEST(ParallelFor, PassesForeignExceptionsOn) {
  EXPECT_THROW(parallel_for(2, 10, StopFlag(), [](int, std::int64_t) { throw std::out_of_range("x"); }),
               std::out_of_range);
}

TEST(ParallelFor, ARequestedStopInterrupts) {
  StopFlag stop;
  std::atomic<int> runs{0};

  const Error error = error_of([&] {
    parallel_for(2, 1'000'000, stop, [&](int, std::int64_t) {
      ++runs;
      stop.request();
    });
  });

  EXPECT_EQ(error.code(), ErrorCode::kInterrupted);
  EXPECT_LE(runs, 2);
}

TEST(ParallelFor, AStopBeforeTheStartRunsNothing) {
  StopFlag stop;
  stop.request();

  const Error error = error_of([&] { parallel_for(2, 10, stop, [](int, std::int64_t) { FAIL(); }); });

  EXPECT_EQ(error.code(), ErrorCode::kInterrupted);
}

TEST(ParallelFor, AnErrorOutranksTheStopItRequests) {
  StopFlag stop;

  const Error error = error_of([&] {
    parallel_for(2, 10, stop, [&](int, std::int64_t) {
      stop.request();
      throw Error(ErrorCode::kIo, "disk full");
    });
  });

  EXPECT_EQ(error.code(), ErrorCode::kIo);
}

}  // namespace
}  // namespace halfquad
