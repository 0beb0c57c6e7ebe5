#include <algorithm>
#include <chrono>
#include <thread>

#include <gmock/gmock.h>

#include "runtime/progress.h"
#include "runtime/progress_text.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

using namespace std::chrono_literals;
using test::error_of;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr ProgressTotals kTotals{.source_bytes = 1'000'000'000, .weights = 500'000'000, .tensors = 323};

// 42.1 % after ten seconds.
void fill(ProgressCounters& done) {
  done.bytes_read = 32'100'000'000;
  done.bytes_written = 8'000'000'000;
  done.weights_done = 8'120'000'000;
  done.source_bytes_done = 421'000'000;
  done.tensors_done = 120;
}

int columns_of(const std::string& text) {
  return static_cast<int>(std::count_if(text.begin(), text.end(), [](char c) { return (c & '\xC0') != '\x80'; }));
}

template <class Action>
std::string stderr_of(Action&& action) {
  testing::internal::CaptureStderr();
  action();
  return testing::internal::GetCapturedStderr();
}

TEST(ProgressLine, ShowsPercentRatesTensorsAndEta) {
  ProgressCounters done;
  fill(done);

  EXPECT_EQ(progress_line(done, kTotals, 10, 0), " 42.1 %  3.21 GB/s  812 Mw/s  tensors 120/323  ETA 00:14");
}

TEST(ProgressLine, DrawsABarOfTheAskedWidth) {
  ProgressCounters done;
  fill(done);

  EXPECT_EQ(progress_line(done, kTotals, 10, 10),
            " 42.1 % |████      | 3.21 GB/s  812 Mw/s  tensors 120/323  ETA 00:14");
}

TEST(ProgressLine, HidesTheEtaUntilItMeansSomething) {
  ProgressCounters done;
  EXPECT_THAT(progress_line(done, kTotals, 60, 0), Not(HasSubstr("ETA"))) << "nothing done";

  done.source_bytes_done = 100'000'000;
  EXPECT_THAT(progress_line(done, kTotals, 1, 0), Not(HasSubstr("ETA"))) << "too early";
  EXPECT_THAT(progress_line(done, kTotals, 3, 0), EndsWith("ETA 00:27"));

  done.source_bytes_done = 1'000'000;
  EXPECT_THAT(progress_line(done, kTotals, 10, 0), Not(HasSubstr("ETA"))) << "too little";
  EXPECT_THAT(progress_line(done, kTotals, 20, 0), EndsWith("ETA 05:33:00")) << "a long job gets one in time";
}

TEST(ProgressLine, ReachesAHundredPercentOnlyWhenDone) {
  ProgressCounters done;
  done.source_bytes_done = kTotals.source_bytes - 1;
  EXPECT_THAT(progress_line(done, kTotals, 72, 0), StartsWith(" 99.9 %"));

  done.source_bytes_done = kTotals.source_bytes;
  EXPECT_THAT(progress_line(done, kTotals, 72, 0), StartsWith("100.0 %"));
  EXPECT_THAT(progress_line(done, kTotals, 72, 0), EndsWith("in 01:12"));

  done.source_bytes_done = kTotals.source_bytes + 5;
  EXPECT_THAT(progress_line(done, kTotals, 72, 4), StartsWith("100.0 % |████|"));
}

TEST(ProgressLine, SurvivesTheFirstMomentAndEmptyTotals) {
  const ProgressCounters done;

  EXPECT_EQ(progress_line(done, kTotals, 0, 0), "  0.0 %  0.00 GB/s  0 Mw/s  tensors 0/323");
  EXPECT_EQ(progress_line(done, {}, 0, 0), "100.0 %  0.00 GB/s  in 00:00");
  EXPECT_EQ(progress_line(done, {.tensors = 2}, 0, 0), "  0.0 %  0.00 GB/s  tensors 0/2");
}

TEST(ProgressLine, CountsTheBusierDirection) {
  ProgressCounters done;
  done.bytes_read = 1'000'000'000;
  done.bytes_written = 4'000'000'000;

  EXPECT_THAT(progress_line(done, kTotals, 2, 0), HasSubstr("2.00 GB/s"));
}

TEST(FittedProgress, FillsNoMoreThanTheColumns) {
  ProgressCounters done;
  fill(done);

  for (int columns = 0; columns <= 200; ++columns) {
    EXPECT_LE(columns_of(fitted_progress_text("quantize", done, kTotals, 10, columns, 14)), columns);
  }
}

TEST(FittedProgress, DropsTheBarBeforeTheNumbers) {
  ProgressCounters done;
  fill(done);

  const std::string narrow = fitted_progress_text("quantize", done, kTotals, 10, 70, 14);
  const std::string exact = fitted_progress_text("quantize", done, kTotals, 10, 80, 14);

  EXPECT_THAT(narrow, Not(HasSubstr("|")));
  EXPECT_THAT(narrow, EndsWith("ETA 00:14"));
  EXPECT_THAT(exact, HasSubstr("|███"));
  EXPECT_EQ(columns_of(exact), 80);
}

TEST(EtaEstimator, BlendsTheWholeRunWithTheLastSeconds) {
  EtaEstimator eta(2000);
  for (int second = 0; second <= 100; ++second) eta.add(second, static_cast<std::uint64_t>(second));
  EXPECT_NEAR(*eta.remaining_seconds(), 1900, 1);

  // Ten times as fast for 20 s: whole run 300/120, lately 10 a second.
  for (int second = 1; second <= 20; ++second) eta.add(100 + second, static_cast<std::uint64_t>(100 + 10 * second));

  EXPECT_NEAR(*eta.remaining_seconds(), 1700 / ((300.0 / 120 + 10) / 2), 1);
}

TEST(EtaEstimator, DoesNotCountWorkDoneBeforeTheStart) {
  EtaEstimator eta(1000);
  eta.add(0, 900);  // a continued job
  eta.add(10, 910);

  EXPECT_NEAR(*eta.remaining_seconds(), 90, 0.1);
}

TEST(EtaEstimator, KnowsNothingWhenNothingIsLeft) {
  EtaEstimator eta(10);
  EXPECT_EQ(eta.remaining_seconds(), std::nullopt);

  eta.add(0, 0);
  eta.add(5, 10);

  EXPECT_EQ(eta.remaining_seconds(), std::nullopt);
}

TEST(ProgressMode, IsReadFromItsName) {
  EXPECT_EQ(progress_mode_from_name("auto"), ProgressMode::kAuto);
  EXPECT_EQ(progress_mode_from_name("bar"), ProgressMode::kBar);
  EXPECT_EQ(progress_mode_from_name("plain"), ProgressMode::kPlain);
  EXPECT_EQ(progress_mode_from_name("none"), ProgressMode::kNone);

  const Error error = error_of([] { (void)progress_mode_from_name("fancy"); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(), HasSubstr("\"fancy\""));
}

TEST(ProgressMeter, PlainPrintsALastLineOnce) {
  ProgressCounters done;
  done.source_bytes_done = kTotals.source_bytes;

  const std::string text = stderr_of([&] {
    ProgressMeter meter(done, kTotals, ProgressMode::kPlain, "verify");
    meter.finish();
    meter.finish();
  });

  EXPECT_THAT(text, StartsWith("verify 100.0 %"));
  EXPECT_THAT(text, EndsWith("in 00:00\n"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
}

TEST(ProgressMeter, AutoIsPlainAwayFromATerminal) {
  const ProgressCounters done;

  const std::string text = stderr_of([&] { ProgressMeter(done, kTotals, ProgressMode::kAuto, "x"); });

  EXPECT_THAT(text, Not(HasSubstr("\r")));
  EXPECT_THAT(text, EndsWith("\n"));
}

TEST(ProgressMeter, BarRedrawsInPlaceAndClearsItself) {
  const ProgressCounters done;

  const std::string text = stderr_of([&] {
    const ProgressMeter meter(done, kTotals, ProgressMode::kBar, "quantize");
    std::this_thread::sleep_for(500ms);
  });

  const auto draws = std::count(text.begin(), text.end(), '\r') - 1;
  EXPECT_GE(draws, 1);
  EXPECT_LE(draws, 3) << "at most five a second";
  EXPECT_THAT(text, Not(HasSubstr("\n")));
  EXPECT_THAT(text, HasSubstr("quantize   0.0 %"));
  EXPECT_THAT(text, EndsWith("\r\x1b[K"));
}

TEST(ProgressMeter, NonePrintsNothing) {
  const ProgressCounters done;

  EXPECT_EQ(stderr_of([&] { ProgressMeter(done, kTotals, ProgressMode::kNone, "x"); }), "");
}

}  // namespace
}  // namespace halfquad
