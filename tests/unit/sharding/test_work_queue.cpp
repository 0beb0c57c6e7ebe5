#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "sharding/work_queue.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kTileCost = 10;

/// `tiles[t]` tiles in tensor t; every third tensor is copied.
Plan plan_of(const std::vector<int>& tiles) {
  Plan plan;
  for (std::size_t tensor = 0; tensor < tiles.size(); ++tensor) {
    const auto kind = tensor % 3 == 2 ? WorkItem::Kind::kCopy : WorkItem::Kind::kTile;
    for (int i = 0; i < tiles[tensor]; ++i) plan.items.push_back({kind, tensor, i, kTileCost - 2, 2});
  }
  return plan;
}

Plan random_plan(std::mt19937& random, int tensors) {
  Plan plan;
  for (int tensor = 0; tensor < tensors; ++tensor) {
    const auto kind = random() % 4 == 0 ? WorkItem::Kind::kCopy : WorkItem::Kind::kTile;
    const auto count = static_cast<int>(random() % 40) + 1;
    for (int i = 0; i < count; ++i) {
      plan.items.push_back({kind, static_cast<std::size_t>(tensor), i, random() % 1000, random() % 100});
    }
  }
  return plan;
}

/// Asks for randomly chosen ranks until all got a refusal; how often each item came.
std::vector<int> drain(WorkQueue& queue, int ranks, std::size_t items, std::mt19937& random) {
  std::vector<int> seen(items);
  std::vector<int> active(static_cast<std::size_t>(ranks));
  std::iota(active.begin(), active.end(), 0);
  while (!active.empty()) {
    const std::size_t pick = random() % active.size();
    const std::optional<ItemRange> piece = queue.next(active[pick]);
    if (!piece) {
      active.erase(active.begin() + static_cast<std::ptrdiff_t>(pick));
      continue;
    }
    EXPECT_GT(piece->size(), 0U);
    for (std::size_t i = piece->begin; i < piece->end; ++i) ++seen.at(i);
  }
  return seen;
}

TEST(WorkQueue, HandsEveryOpenItemOutOnceWhoeverAsks) {
  std::mt19937 random(1);
  for (const Schedule schedule : {Schedule::kDynamic, Schedule::kStatic}) {
    for (const int ranks : {1, 2, 3, 7, 64, 1000}) {
      for (const unsigned done_of_four : {0U, 1U, 3U, 4U}) {
        const Plan plan = random_plan(random, 20);
        std::vector<std::uint8_t> done(plan.items.size());
        for (auto& each : done) each = random() % 4 < done_of_four ? 1 : 0;
        WorkQueue queue(plan, ranks, schedule, done);
        EXPECT_EQ(queue.left(), static_cast<std::size_t>(std::ranges::count(done, 0)));

        const std::vector<int> seen = drain(queue, ranks, plan.items.size(), random);

        for (std::size_t i = 0; i < seen.size(); ++i) ASSERT_EQ(seen[i], done[i] != 0 ? 0 : 1) << i << " of " << ranks;
        EXPECT_EQ(queue.left(), 0U);
      }
    }
  }
}

TEST(WorkQueue, SharesAreContiguousAndOfEqualCost) {
  std::mt19937 random(2);
  const Plan plan = random_plan(random, 50);
  const WorkQueue queue(plan, 8, Schedule::kStatic);
  const auto cost = [&](ItemRange range) {
    std::uint64_t sum = 0;
    for (std::size_t i = range.begin; i < range.end; ++i)
      sum += plan.items[i].source_bytes + plan.items[i].output_bytes;
    return static_cast<double>(sum);
  };
  const double even = cost({0, plan.items.size()}) / 8;

  std::size_t expected = 0;
  for (int rank = 0; rank < 8; ++rank) {
    ASSERT_EQ(queue.share(rank).size(), 1U);
    EXPECT_EQ(queue.share(rank)[0].begin, expected);
    expected = queue.share(rank)[0].end;
    EXPECT_NEAR(cost(queue.share(rank)[0]), even, 1100) << "an item costs less than 1100";
  }
  EXPECT_EQ(expected, plan.items.size());
}

TEST(WorkQueue, SharesLeaveDoneItemsOutAndEvenTheRest) {
  const Plan plan = plan_of({8, 8});
  std::vector<std::uint8_t> done(16);
  for (const std::size_t i : {0U, 1U, 2U, 3U, 5U, 8U}) done[i] = 1;

  const WorkQueue queue(plan, 2, Schedule::kStatic, done);

  ASSERT_EQ(queue.share(0).size(), 3U);  // 4, 6..7, 9..10
  EXPECT_EQ(queue.share(0)[0].begin, 4U);
  EXPECT_EQ(queue.share(0)[1].size(), 2U);
  EXPECT_EQ(queue.share(0)[2].end, 11U);
  ASSERT_EQ(queue.share(1).size(), 1U);
  EXPECT_EQ(queue.share(1)[0].size(), 5U);
}

TEST(WorkQueue, StaticKeepsToTheSharesInOrder) {
  const Plan plan = plan_of({50, 49, 1, 60, 40});
  WorkQueue queue(plan, 2, Schedule::kStatic);
  for (const int rank : {1, 0}) {
    std::size_t at = queue.share(rank)[0].begin;
    while (const auto piece = queue.next(rank)) {
      EXPECT_EQ(piece->begin, at);
      at = piece->end;
    }
    EXPECT_EQ(at, queue.share(rank)[0].end);
  }
}

TEST(WorkQueue, TakesLargeCopiesBeforeTheRest) {
  const Plan plan = plan_of({10, 20, 30, 40, 5, 1, 45, 30, 30});
  for (const Schedule schedule : {Schedule::kDynamic, Schedule::kStatic}) {
    WorkQueue queue(plan, 1, schedule);
    std::vector<std::size_t> order;
    while (const auto piece = queue.next(0)) {
      for (std::size_t i = piece->begin; i < piece->end; ++i) order.push_back(i);
    }

    std::vector<std::size_t> expected;
    for (const ItemRange part : {ItemRange{30, 60}, {181, 211}, {0, 30}, {60, 181}}) {
      for (std::size_t i = part.begin; i < part.end; ++i) expected.push_back(i);
    }
    EXPECT_EQ(order, expected);
  }
}

TEST(WorkQueue, StartsWithTensorsThatOtherRanksHaveAPartOf) {
  const Plan plan = plan_of({30, 30, 40, 35, 45});  // shares of 60, of [60, 120) and of the rest
  std::vector<std::uint8_t> done(180);
  WorkQueue queue(plan, 3, Schedule::kDynamic, done);
  const auto walk = [&](int rank) {
    std::vector<std::size_t> starts;
    for (std::size_t taken = 0; taken < 60;) {
      const auto piece = queue.next(rank);
      taken += piece->size();
      starts.push_back(piece->begin);
    }
    return starts;
  };
  ASSERT_EQ(queue.share(1)[0].begin, 60U);
  ASSERT_EQ(queue.share(1)[0].end, 120U);

  EXPECT_TRUE(std::ranges::is_sorted(walk(0))) << "no tensor is cut";
  const auto middle = walk(1);
  EXPECT_EQ(middle.front(), 100U);
  EXPECT_EQ(*std::ranges::find_if(middle, [](std::size_t start) { return start < 100; }), 60U);
  EXPECT_EQ(queue.next(2)->begin, 120U);
}

TEST(WorkQueue, TheIdleHelpTheBusiestFromTheBack) {
  const Plan plan = plan_of({100, 100, 100});
  WorkQueue queue(plan, 3, Schedule::kDynamic);
  while (queue.next(0)->end != 100) {
  }
  const auto own = queue.next(1);
  ASSERT_EQ(own->begin, 100U);

  const auto helped = queue.next(0);

  EXPECT_EQ(helped->end, 300U) << "rank 2 has done nothing yet";
  EXPECT_GE(queue.next(2)->begin, 200U);
}

TEST(WorkQueue, PiecesHoldSixteenTilesAtMostAndShrinkToOne) {
  const Plan plan = plan_of(std::vector<int>(10, 1000));
  WorkQueue queue(plan, 4, Schedule::kDynamic);
  std::vector<std::size_t> sizes;
  while (const auto piece = queue.next(3)) sizes.push_back(piece->size());
  EXPECT_EQ(sizes.front(), 16U);
  EXPECT_LE(*std::ranges::max_element(sizes), 20U) << "16 and a quarter for the rest of a tensor";
  EXPECT_EQ(sizes.back(), 1U);
}

TEST(WorkQueue, EndsPiecesAtTheBordersOfTensors) {
  // Of 16 tiles: two tensors of 7 and one of 1 fit, the next comes whole in the next piece.
  std::vector<int> tiles(100, 7);
  for (std::size_t i = 2; i < tiles.size(); i += 3) tiles[i] = 1;
  const Plan small = plan_of(tiles);
  WorkQueue whole(small, 1, Schedule::kDynamic);
  EXPECT_EQ(whole.next(0)->end, 15U);
  // A rest of four tiles is no more than a quarter of sixteen, one of five is.
  const Plan rest_of_four = plan_of({20, 500});
  EXPECT_EQ(WorkQueue(rest_of_four, 1, Schedule::kDynamic).next(0)->end, 20U);
  const Plan rest_of_five = plan_of({21, 500});
  EXPECT_EQ(WorkQueue(rest_of_five, 1, Schedule::kDynamic).next(0)->end, 16U);
  // From the back the same, with the head of a tensor.
  const Plan back = plan_of({500, 500, 500, 20});
  WorkQueue helped(back, 2, Schedule::kDynamic);
  for (std::size_t taken = 0; taken < helped.share(0)[0].size();) taken += helped.next(0)->size();
  EXPECT_EQ(helped.next(0)->begin, 1500U);
}

TEST(WorkQueue, TakesTheCostsItIsGiven) {
  const Plan plan = plan_of({4});
  const WorkQueue queue(plan, 2, Schedule::kStatic, {}, {3, 1, 1, 1});
  EXPECT_EQ(queue.share(0)[0].end, 1U);
  EXPECT_EQ(queue.share(1)[0].size(), 3U);
}

TEST(WorkQueue, AnEmptyPlanHasNoWork) {
  WorkQueue queue(Plan{}, 3, Schedule::kDynamic);
  EXPECT_FALSE(queue.next(1));
  EXPECT_TRUE(queue.share(2).empty());
}

}  // namespace
}  // namespace halfquad
