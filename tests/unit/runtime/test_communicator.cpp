#include <cstddef>
#include <exception>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <gmock/gmock.h>

#include "runtime/communicator.h"
#include "tests/support/communicator_checks.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

using test::communicator_checks;
using test::CommunicatorCheck;

/// What the check says on each rank; empty where it is content. The others of a rank that fails run out of patience.
std::vector<std::string> run_on_threads(const CommunicatorCheck& check, int size) {
  auto ranks = make_thread_communicators(size);
  std::vector<std::string> findings(ranks.size());
  std::vector<std::thread> threads;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    threads.emplace_back([&, rank] {
      try {
        test::run_communicator_checks(*ranks[rank], {.patience_s = 20}, {&check, 1});
      } catch (const std::exception& error) {
        findings[rank] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return findings;
}

class ThreadCommunicators : public testing::TestWithParam<std::tuple<std::size_t, int>> {};

TEST_P(ThreadCommunicators, KeepTheContract) {
  const auto [check, size] = GetParam();
  EXPECT_THAT(run_on_threads(communicator_checks()[check], size), testing::Each(testing::IsEmpty()));
}

INSTANTIATE_TEST_SUITE_P(Checks, ThreadCommunicators,
                         testing::Combine(testing::Range(std::size_t{0}, communicator_checks().size()),
                                          testing::Values(1, 2, 4)),
                         [](const auto& test) {
                           return std::string(communicator_checks()[std::get<0>(test.param)].name) + "On" +
                                  std::to_string(std::get<1>(test.param));
                         });

TEST(ThreadCommunicator, SaysWhereItIs) {
  const auto ranks = make_thread_communicators(3);
  ASSERT_EQ(ranks.size(), 3U);
  EXPECT_EQ(ranks[2]->rank(), 2);
  EXPECT_EQ(ranks[2]->size(), 3);
  EXPECT_EQ(ranks[2]->local_rank(), 2);
  EXPECT_EQ(ranks[2]->local_size(), 3);
  EXPECT_EQ(ranks[2]->name(), "threads");
}

TEST(ThreadCommunicator, OutlivesTheOthers) {
  auto ranks = make_thread_communicators(2);
  ranks[0]->send({.rank = 1, .tag = 4, .data = {std::byte{9}}});
  ranks[0].reset();
  const auto message = ranks[1]->receive();
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(message->rank, 0);
  EXPECT_EQ(message->tag, 4);
  EXPECT_NO_THROW(ranks[1]->send({.rank = 0, .tag = 0, .data = {}}));
}

TEST(ThreadCommunicator, AbortEndsTheProcessWithItsCode) {
  const auto ranks = make_thread_communicators(2);
  EXPECT_EXIT(ranks[1]->abort(7), testing::ExitedWithCode(7), "^$");
}

TEST(ThreadCommunicator, NeedsARank) {
  test::expect_error(ErrorCode::kInternal, {"0 ranks"}, [] { return make_thread_communicators(0); });
}

TEST(SingleCommunicator, IsTheWholeJob) {
  const auto alone = make_single_communicator();
  EXPECT_EQ(alone->rank(), 0);
  EXPECT_EQ(alone->size(), 1);
  EXPECT_EQ(alone->local_rank(), 0);
  EXPECT_EQ(alone->local_size(), 1);
  EXPECT_EQ(alone->name(), "one process");
}

TEST(SingleCommunicator, KeepsTheContract) {
  const auto alone = make_single_communicator();
  EXPECT_FALSE(alone->receive().has_value());
  EXPECT_NO_THROW(test::run_communicator_checks(*alone, {}));
}

}  // namespace
}  // namespace halfquad
