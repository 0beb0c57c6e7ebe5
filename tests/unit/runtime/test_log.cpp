#include <algorithm>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include "runtime/log.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

using test::error_of;
using testing::EndsWith;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

template <class Action>
std::string stderr_of(Action&& action) {
  testing::internal::CaptureStderr();
  action();
  return testing::internal::GetCapturedStderr();
}

TEST(Log, DropsMessagesBelowItsLevel) {
  const std::string text = stderr_of([] {
    Log log(LogLevel::kWarn);
    log.debug("d-message");
    log.info("i-message");
    log.warn("w-message");
    log.error("e-message");
  });

  EXPECT_THAT(text, Not(HasSubstr("d-message")));
  EXPECT_THAT(text, Not(HasSubstr("i-message")));
  EXPECT_THAT(text, HasSubstr("warn: w-message\n"));
  EXPECT_THAT(text, HasSubstr("error: e-message\n"));
}

TEST(Log, LevelsTraceAndDebugShowEverything) {
  for (const LogLevel level : {LogLevel::kTrace, LogLevel::kDebug}) {
    EXPECT_THAT(stderr_of([&] { Log(level).debug("shown"); }), EndsWith("debug: shown\n"));
  }
}

TEST(Log, OffSaysNothing) {
  EXPECT_EQ(stderr_of([] { Log(LogLevel::kOff).error("unheard"); }), "");
}

TEST(Log, IsPlainAndDatedAwayFromATerminal) {
  const std::string text = stderr_of([] { Log(LogLevel::kInfo).info("hello {} %v"); });

  EXPECT_THAT(text, MatchesRegex("[0-9-]+ [0-9:]+ info: hello \\{\\} %v\n"));
}

TEST(Log, KeepsAMessageOnOneLine) {
  const std::string text = stderr_of([] { Log(LogLevel::kInfo).info("one\ntwo\x1b[2J\xff"); });

  EXPECT_THAT(text, EndsWith("info: one\\ntwo\\x1b[2J\\xff\n"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
}

TEST(Log, DoesNotMixLinesOfThreads) {
  const std::string text = stderr_of([] {
    Log log(LogLevel::kInfo);
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int line = 0; line < 50; ++line) log.info("abcdefghij");
      });
    }
    for (auto& thread : threads) thread.join();
  });

  std::size_t whole = 0;
  for (std::size_t at = 0; (at = text.find("info: abcdefghij\n", at)) != std::string::npos; ++at) ++whole;
  EXPECT_EQ(whole, 200U);
}

TEST(Log, WritesJsonLinesWhenAsked) {
  const std::string text = stderr_of([] {
    Log log(LogLevel::kInfo, LogFormat::kJson);
    log.debug("unheard");
    log.warn("a \"name\"\nand\x1b\xff");
  });

  EXPECT_THAT(text, MatchesRegex(R"(\{"time":"[0-9-]+T[0-9:]+\.[0-9]+Z","level":"warn",.*\}.)"));
  EXPECT_THAT(text, HasSubstr(R"("message":"a \"name\"\\nand\\x1b\\xff")"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
}

TEST(JsonLogLine, TakesFurtherMembers) {
  EXPECT_THAT(json_log_line("error", "m", R"("exit_code":4)"),
              EndsWith(R"("level":"error","message":"m","exit_code":4})"));
}

TEST(LogFormatFromName, KnowsBothAndRefusesOthers) {
  EXPECT_EQ(log_format_from_name("text"), LogFormat::kText);
  EXPECT_EQ(log_format_from_name("json"), LogFormat::kJson);

  const Error error = error_of([] { (void)log_format_from_name("xml"); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(), HasSubstr("\"xml\"; choose text or json"));
}

TEST(LogLevelFromName, KnowsEveryLevel) {
  EXPECT_EQ(log_level_from_name("trace"), LogLevel::kTrace);
  EXPECT_EQ(log_level_from_name("debug"), LogLevel::kDebug);
  EXPECT_EQ(log_level_from_name("info"), LogLevel::kInfo);
  EXPECT_EQ(log_level_from_name("warn"), LogLevel::kWarn);
  EXPECT_EQ(log_level_from_name("error"), LogLevel::kError);
  EXPECT_EQ(log_level_from_name("off"), LogLevel::kOff);
}

TEST(LogLevelFromName, RefusesOthersWithTheChoice) {
  const Error error = error_of([] { (void)log_level_from_name("loud\n"); });

  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(), HasSubstr("\"loud\\n\""));
  EXPECT_THAT(error.what(), HasSubstr("trace, debug, info, warn, error or off"));
}

}  // namespace
}  // namespace halfquad
