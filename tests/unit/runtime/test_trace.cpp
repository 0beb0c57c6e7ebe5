#include <chrono>
#include <string>

#include <gtest/gtest.h>

#include "runtime/trace.h"

namespace halfquad {
namespace {

using namespace std::chrono_literals;

TEST(Trace, WritesOneProcessARankAndOneThreadALane) {
  Trace trace(0);
  const auto start = Trace::Clock::now();
  trace.add("worker 0", "solve \"a\"", start + 5ms, start + 7ms);
  trace.add("reader 0", "read a", start, start + 5ms);
  Trace other(3);
  other.add("worker 0", "solve b", start + 1ms, start + 2ms);
  trace.add(other.take());

  const std::string json = trace.json();

  EXPECT_NE(json.find(R"("pid":3,"args":{"name":"rank 3"})"), std::string::npos) << json;
  EXPECT_NE(json.find(R"("pid":0,"tid":1,"ts":5000,"dur":2000,"name":"solve \"a\"")"), std::string::npos) << json;
  EXPECT_NE(json.find(R"("pid":0,"tid":0,"ts":0,"dur":5000,"name":"read a")"), std::string::npos) << json;
  EXPECT_TRUE(other.take().empty());
}

TEST(Trace, EscapesWhatJsonDoesNotAllow) {
  Trace trace(0);
  const auto start = Trace::Clock::now();
  trace.add("worker 0", "a\nb\\c\xff", start, start);

  const std::string json = trace.json();

  EXPECT_EQ(json.find('\xff'), std::string::npos);
  EXPECT_EQ(json.find("a\nb"), std::string::npos) << json;
}

TEST(Trace, WithoutEventsIsValidToo) {
  EXPECT_EQ(Trace(0).json(), "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n]}\n");
}

}  // namespace
}  // namespace halfquad
