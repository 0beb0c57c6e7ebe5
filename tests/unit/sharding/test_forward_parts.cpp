// Parts of the forward pass: tokens, routing, the exchange between ranks.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/posix_file_system.h"
#include "runtime/communicator.h"
#include "sharding/forward/panels.h"
#include "sharding/forward/rank_exchange.h"
#include "sharding/forward/routing.h"
#include "sharding/forward/token_batch.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatEq;

TEST(TokenBatch, RandomTokensDependOnSeedAndPlaceAlone) {
  const TokenBatch batch = random_tokens({.tokens = 1000, .length = 8, .seed = 7}, 500);
  EXPECT_EQ(batch.tokens(), 1000);
  EXPECT_EQ(batch.sequences(), 125);
  EXPECT_EQ(batch.longest(), 8);
  EXPECT_TRUE(std::ranges::all_of(batch.ids, [](std::int64_t id) { return id >= 0 && id < 500; }));
  EXPECT_GT(std::set<std::int64_t>(batch.ids.begin(), batch.ids.end()).size(), 400U);
  const TokenBatch fewer = random_tokens({.tokens = 100, .length = 9, .seed = 7}, 500);
  EXPECT_TRUE(std::equal(fewer.ids.begin(), fewer.ids.end(), batch.ids.begin()));
  EXPECT_EQ(fewer.sequences(), 12);
  EXPECT_EQ(fewer.begins.back() - fewer.begins[11], 1);
  EXPECT_NE(random_tokens({.tokens = 100, .length = 8, .seed = 8}, 500).ids, fewer.ids);
}

class TokensFile : public ::testing::Test {
 protected:
  TokenBatch read(const std::string& text) {
    test::put_file(path_, text);
    return read_tokens(*files_, path_, 100);
  }

  test::TempDir directory_;
  std::filesystem::path path_ = directory_.path() / "ids.txt";
  std::unique_ptr<FileSystem> files_ = make_posix_file_system();
};

TEST_F(TokensFile, HasASequenceALine) {
  const TokenBatch batch = read("1 2 3\n\n  4,5\r\n99");
  EXPECT_THAT(batch.ids, ElementsAre(1, 2, 3, 4, 5, 99));
  EXPECT_THAT(batch.begins, ElementsAre(0, 3, 5, 6));
  EXPECT_THAT(batch.positions(), ElementsAre(0, 1, 2, 0, 1, 0));
}

TEST_F(TokensFile, RefusesWhatIsNoToken) {
  for (const char* text : {"1 2\n3 100\n", "1\n-1\n", "1\n2x\n"}) {
    test::expect_error(ErrorCode::kBadInput, {"ids.txt\" line 2", "is not the number of a token, 0 to 99"},
                       [&] { static_cast<void>(read(text)); });
  }
  test::expect_error(ErrorCode::kBadInput, {"holds no tokens"}, [&] { static_cast<void>(read("\n \n")); });
}

class RoutingTest : public ::testing::Test {
 protected:
  /// `rows`: logits by token.
  Panels logits(const std::vector<std::vector<float>>& rows) {
    Panels panels(pool_, static_cast<std::int64_t>(rows[0].size()), static_cast<std::int64_t>(rows.size()));
    for (std::size_t t = 0; t < rows.size(); ++t) {
      for (std::size_t e = 0; e < rows[t].size(); ++e) {
        panels.at(static_cast<std::int64_t>(e), static_cast<std::int64_t>(t)) = rows[t][e];
      }
    }
    return panels;
  }

  BufferPool pool_{1 << 20};
};

TEST_F(RoutingTest, SendsTokensToTheLikeliestExperts) {
  const auto experts = route(logits({{0, std::log(3.0F), std::log(4.0F)}, {1, 1, 0}}), {2, false, 0});
  EXPECT_THAT(experts[0].tokens, ElementsAre(1));
  EXPECT_THAT(experts[1].tokens, ElementsAre(0, 1));
  EXPECT_THAT(experts[2].tokens, ElementsAre(0));
  EXPECT_FLOAT_EQ(experts[1].weights[0], 3.0F / 8);
  EXPECT_FLOAT_EQ(experts[2].weights[0], 4.0F / 8);
  const auto normal = route(logits({{0, std::log(3.0F), std::log(4.0F)}}), {2, true, 0});
  EXPECT_THAT(normal[1].weights, ElementsAre(FloatEq(3.0F / 7)));
  // The first of equals.
  EXPECT_THAT(route(logits({{5, 5, 5}}), {1, false, 0})[0].tokens, ElementsAre(0));
}

TEST_F(RoutingTest, AnExpertWithFewTokensMeasuresThoseThatComeNext) {
  const auto experts = route(logits({{9, 1}, {1, 9}, {9, 3}, {9, 2}}), {1, false, 3});
  EXPECT_THAT(experts[0].tokens, ElementsAre(0, 2, 3));
  EXPECT_THAT(experts[1].tokens, ElementsAre(1, 2, 3));
  EXPECT_EQ(experts[1].routed, 1);
  EXPECT_THAT(experts[1].weights, ElementsAre(FloatEq(1.0F / (1 + std::exp(-8.0F))), 0.0F, 0.0F));
}

/// `body` on each of some ranks, each a thread.
template <class Body>
void on_ranks(int count, const Body& body) {
  auto communicators = make_thread_communicators(count);
  std::vector<std::thread> threads;
  for (auto& communicator : communicators) {
    threads.emplace_back([&communicator, &body] {
      const StopFlag stop;
      RankExchange exchange(*communicator, "host", stop);
      body(exchange);
      communicator.reset();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(RankExchange, GivesEveryRankWhatAllGave) {
  on_ranks(3, [](RankExchange& exchange) {
    for (int step = 0; step < 20; ++step) {
      const std::size_t bytes = static_cast<std::size_t>(exchange.rank() * 100 + step);
      const auto all = exchange.all_gather(std::vector<std::byte>(bytes, static_cast<std::byte>(step)));
      ASSERT_EQ(all.size(), 3U);
      for (std::size_t rank = 0; rank < 3; ++rank) {
        EXPECT_EQ(all[rank],
                  std::vector<std::byte>(rank * 100 + static_cast<std::size_t>(step), static_cast<std::byte>(step)));
      }
    }
  });
}

// What a rank sends once it has left must reach whoever uses the communicator next, however far behind the others are.
TEST(RankExchange, WhoLeavesTakesNothingOfWhatComesNext) {
  static constexpr int kRanks = 4;
  static constexpr int kNext = 1;  // also the tag of an exchange's first step
  auto communicators = make_thread_communicators(kRanks);
  std::vector<std::thread> threads;
  for (auto& communicator : communicators) {
    threads.emplace_back([&communicator] {
      const StopFlag stop;
      RankExchange exchange(*communicator, "host", stop);
      const int rank = exchange.rank();
      for (int step = 0; step < 3; ++step) {
        if (rank == step) std::this_thread::sleep_for(std::chrono::milliseconds(20));
        static_cast<void>(exchange.all_gather({}));
      }
      exchange.leave();
      if (rank == 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
        std::vector<int> heard;
        while (heard.size() + 1 < kRanks && std::chrono::steady_clock::now() < deadline) {
          const std::optional<Message> message = communicator->receive();
          if (!message) continue;
          EXPECT_EQ(message->tag, kNext);
          heard.push_back(message->rank);
        }
        EXPECT_THAT(heard, testing::UnorderedElementsAre(1, 2, 3));
      } else {
        communicator->send({0, kNext, {}});
        while (communicator->unsent() > 0) EXPECT_FALSE(communicator->receive());
      }
      communicator.reset();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(RankExchange, AnErrorOfOneRankEndsAll) {
  on_ranks(3, [](RankExchange& exchange) {
    if (exchange.rank() == 1) {
      static_cast<void>(exchange.all_gather({}));
      exchange.fail(Error(ErrorCode::kBadInput, "tensor \"x\" is broken"));
      return;
    }
    test::expect_error(ErrorCode::kBadInput, {"rank 1 on host: tensor \"x\" is broken"}, [&] {
      for (int step = 0; step < 2; ++step) static_cast<void>(exchange.all_gather({}));
    });
  });
}

}  // namespace
}  // namespace halfquad
