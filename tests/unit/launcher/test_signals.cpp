#include <csignal>
#include <cstdlib>

#include <gtest/gtest.h>

#include "launcher/exit_code.h"
#include "launcher/signals.h"

namespace halfquad {
namespace {

TEST(ExitCode, IsTheDocumentedNumberOfEveryError) {
  EXPECT_EQ(exit_code(ErrorCode::kUsage), 2);
  EXPECT_EQ(exit_code(ErrorCode::kBadInput), 3);
  EXPECT_EQ(exit_code(ErrorCode::kIo), 4);
  EXPECT_EQ(exit_code(ErrorCode::kOutOfMemory), 5);
  EXPECT_EQ(exit_code(ErrorCode::kMismatch), 6);
  EXPECT_EQ(exit_code(ErrorCode::kInternal), 70);
  EXPECT_EQ(exit_code(ErrorCode::kInterrupted), 75);
}

TEST(SignalHandlers, FirstSignalRequestsAStop) {
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) {
    StopFlag stop;
    const SignalHandlers handlers(stop);

    std::raise(number);

    EXPECT_TRUE(stop.requested()) << number;
  }
}

TEST(SignalHandlersDeathTest, SecondSignalEndsTheProcessAtOnce) {
  const auto twice = [](int first, int second) {
    StopFlag stop;
    const SignalHandlers handlers(stop);
    std::raise(first);
    std::raise(second);
    std::exit(1);
  };

  EXPECT_EXIT(twice(SIGUSR1, SIGTERM), ::testing::ExitedWithCode(128 + SIGTERM), "");
  EXPECT_EXIT(twice(SIGINT, SIGINT), ::testing::ExitedWithCode(128 + SIGINT), "");
}

TEST(SignalHandlersDeathTest, GoesBackToTheDefaultAction) {
  const auto after = [] {
    {
      StopFlag stop;
      const SignalHandlers handlers(stop);
    }
    std::raise(SIGTERM);
    std::exit(1);
  };

  EXPECT_EXIT(after(), ::testing::KilledBySignal(SIGTERM), "");
}

}  // namespace
}  // namespace halfquad
