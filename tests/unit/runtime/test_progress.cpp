#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "runtime/eta.h"
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

ProgressSnapshot snapshot_of(const ProgressCounters& done, const ProgressTotals& totals, double seconds) {
  ProgressCounters shown;
  // Nothing to solve: the estimate goes by bytes.
  ProgressTracker tracker(shown, {.source_bytes = totals.source_bytes, .tensors = totals.tensors});
  shown.bytes_read = done.bytes_read.load();
  shown.bytes_written = done.bytes_written.load();
  shown.weights_done = done.weights_done.load();
  shown.source_bytes_done = done.source_bytes_done.load();
  shown.tensors_done = done.tensors_done.load();
  ProgressSnapshot now = tracker.sample_at(seconds);
  now.totals = totals;
  return now;
}

std::string progress_line(const ProgressCounters& done, const ProgressTotals& totals, double seconds, int bar) {
  return progress_text(snapshot_of(done, totals, seconds), bar);
}

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
    EXPECT_LE(columns_of(fitted_progress_text("quantize", snapshot_of(done, kTotals, 10), columns)), columns);
  }
}

TEST(FittedProgress, DropsTheBarBeforeTheNumbers) {
  ProgressCounters done;
  fill(done);

  const std::string narrow = fitted_progress_text("quantize", snapshot_of(done, kTotals, 10), 70);
  const std::string exact = fitted_progress_text("quantize", snapshot_of(done, kTotals, 10), 80);

  EXPECT_THAT(narrow, Not(HasSubstr("|")));
  EXPECT_THAT(narrow, EndsWith("ETA 00:14"));
  EXPECT_THAT(exact, HasSubstr("|███"));
  EXPECT_EQ(columns_of(exact), 80);
}

TEST(EtaEstimator, BlendsTheWholeRunWithTheLastSeconds) {
  EtaEstimator eta(2000);
  for (int second = 0; second <= 100; ++second) eta.add(second, static_cast<std::uint64_t>(second));
  EXPECT_NEAR(*eta.remaining_seconds(), 1900, 1);

  // Ten times as fast for 40 s: whole run 500/140, its last quarter 10 a second.
  for (int second = 1; second <= 40; ++second) eta.add(100 + second, static_cast<std::uint64_t>(100 + 10 * second));

  EXPECT_NEAR(*eta.remaining_seconds(), 1500 / ((500.0 / 140 + 10) / 2), 1);
}

TEST(EtaEstimator, DoesNotCountWorkDoneBeforeTheStart) {
  EtaEstimator eta(1000);
  eta.add(0, 900);  // a continued job
  eta.add(10, 910);

  EXPECT_NEAR(*eta.remaining_seconds(), 90, 0.1);
}

/// What tests/bench/record_progress.py wrote down of a real job: [seconds, source bytes, weights], the totals first.
std::vector<std::array<double, 3>> read_recording(const std::filesystem::path& path) {
  std::vector<std::array<double, 3>> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::ranges::replace_if(
        line, [](char c) { return c == ',' || c == '[' || c == ']'; }, ' ');
    std::istringstream numbers(line);
    numbers >> lines.emplace_back()[0] >> lines.back()[1] >> lines.back()[2];
  }
  return lines;
}

TEST(ProgressTracker, PredictsTheTimeWithinAFifthFromATenthOfTheWorkOn) {
  int recordings = 0;
  for (const auto& entry : std::filesystem::directory_iterator(HALFQUAD_GOLDEN_DIR "/progress")) {
    const std::vector<std::array<double, 3>> lines = read_recording(entry.path());
    ASSERT_GT(lines.size(), 20U) << entry.path();
    const double end = lines.back()[0];
    ProgressCounters done;
    ProgressTracker tracker(done, {.source_bytes = static_cast<std::uint64_t>(lines[0][1]),
                                   .weights = static_cast<std::uint64_t>(lines[0][2])});
    int judged = 0;
    for (std::size_t i = 1; i < lines.size(); ++i) {
      done.source_bytes_done = static_cast<std::uint64_t>(lines[i][1]);
      done.weights_done = static_cast<std::uint64_t>(lines[i][2]);
      const ProgressSnapshot now = tracker.sample_at(lines[i][0]);
      if (now.fraction() < 0.1 || lines[i][2] < 0.1 * lines[0][2] || now.fraction() == 1) continue;
      if (!now.eta_seconds && now.seconds < 5) continue;  // too early for any
      ASSERT_TRUE(now.eta_seconds) << now.seconds;
      EXPECT_NEAR(now.seconds + *now.eta_seconds, end, 0.2 * end) << entry.path() << " after " << now.seconds << " s";
      ++judged;
    }
    EXPECT_GT(judged, 10) << entry.path();
    ++recordings;
  }
  EXPECT_GE(recordings, 2);
}

TEST(EtaEstimator, KnowsNothingWhenNothingIsLeft) {
  EtaEstimator eta(10);
  EXPECT_EQ(eta.remaining_seconds(), std::nullopt);

  eta.add(0, 0);
  eta.add(5, 10);

  EXPECT_EQ(eta.remaining_seconds(), std::nullopt);
}

TEST(ProgressTracker, DoesNotTakeAnEarlierRunsWorkForFast) {
  ProgressCounters done;
  ProgressTracker tracker(done, kTotals);
  (void)tracker.sample_at(3);  // while the earlier run's work is being checked
  done.source_bytes_before = 500'000'000;
  done.source_bytes_done = 500'000'000;
  (void)tracker.sample_at(4);
  done.source_bytes_done = 600'000'000;
  done.weights_done = 50'000'000;  // of the 250'000'000 that are left

  const ProgressSnapshot now = tracker.sample_at(14);

  EXPECT_NEAR(*now.eta_seconds, 40, 0.1);
  EXPECT_NEAR(now.fraction(), 0.6, 1e-9);
  EXPECT_EQ(now.source_bytes_before, 500'000'000U);
}

TEST(ProgressTracker, GoesByTheWeightsAsLongAsThereAreSome) {
  ProgressCounters done;
  ProgressTracker tracker(done, kTotals);
  done.source_bytes_done = 500'000'000;  // copied at once
  EXPECT_FALSE(tracker.sample_at(5).eta_seconds);
  done.weights_done = 100'000'000;
  EXPECT_NEAR(*tracker.sample_at(10).eta_seconds, 20, 0.1);
  done.weights_done = kTotals.weights;
  done.source_bytes_done = 900'000'000;
  EXPECT_TRUE(tracker.sample_at(30).eta_seconds) << "what is solved is still to be written";
}

TEST(SlowestRank, IsTheOneAtWorkThatHasDoneTheLeast) {
  std::vector<RankProgress> ranks(4);
  const std::uint64_t done[] = {100, 40, 10, 90};
  for (int i = 0; i < 4; ++i) {
    ranks[static_cast<std::size_t>(i)] = {
        .rank = i, .host = fmt::format("node{}", i), .source_bytes_done = done[i], .ended = i == 2};
  }

  const std::optional<SlowestRank> slowest = slowest_rank(ranks);

  ASSERT_TRUE(slowest);
  EXPECT_EQ(slowest->rank, 1) << "the last has ended";
  EXPECT_EQ(slowest->host, "node1");
  EXPECT_DOUBLE_EQ(slowest->of_median, 40.0 / 90);
}

TEST(SlowestRank, IsNobodyAmongTooFewOrTooEarly) {
  std::vector<RankProgress> ranks(1);
  EXPECT_FALSE(slowest_rank(ranks));
  ranks.resize(3);
  EXPECT_FALSE(slowest_rank(ranks)) << "nothing done";
  for (RankProgress& rank : ranks) rank = {.source_bytes_done = 5, .ended = true};
  EXPECT_FALSE(slowest_rank(ranks)) << "all have ended";
}

ProgressSnapshot three_ranks() {
  ProgressCounters done;
  fill(done);
  ProgressSnapshot now = snapshot_of(done, kTotals, 10);
  now.ranks = {
      {.rank = 0, .host = "a", .bytes_read = 20'000'000'000, .weights_done = 10'000'000, .source_bytes_done = 200},
      {.rank = 1, .host = "long\nname", .source_bytes_done = 100, .silent_seconds = 9},
      {.rank = 2, .host = "c", .source_bytes_done = 190, .ended = true}};
  return now;
}

TEST(ProgressLine, NamesARankThatIsFarBehind) {
  ProgressSnapshot now = three_ranks();
  EXPECT_THAT(progress_text(now, 0), EndsWith("ETA 00:14  slowest: rank 1 on long\\nname, 53 % of the median"));

  now.ranks[1].source_bytes_done = 160;
  EXPECT_THAT(progress_text(now, 0), EndsWith("ETA 00:14")) << "near enough";
}

TEST(RanksText, IsALineForEachRank) {
  EXPECT_EQ(ranks_text(three_ranks()),
            "  rank 0 on a             0.0 %  2.00 GB/s  1 Mw/s\n"
            "  rank 1 on long\\nname    0.0 %  0.00 GB/s  0 Mw/s  silent for 9 s\n"
            "  rank 2 on c             0.0 %  0.00 GB/s  0 Mw/s  done\n");
  EXPECT_EQ(ranks_text(ProgressSnapshot{}), "");
}

TEST(ProgressJson, SaysTheSameInOneObject) {
  const std::string text = progress_json("quant\"izing", three_ranks(), true);

  EXPECT_THAT(text, HasSubstr(R"("level":"info","event":"progress","phase":"quant\"izing","seconds":10.000,)"));
  EXPECT_THAT(text, HasSubstr(R"("fraction":0.421000,"eta_seconds":13.753,"source_bytes_done":421000000,)"));
  EXPECT_THAT(text, HasSubstr(R"("slowest_rank":{"rank":1,"host":"long\u000aname","of_median":0.526})"));
  EXPECT_THAT(text, HasSubstr(R"("rank":2,"host":"c","source_bytes_done":190,)"));
  EXPECT_THAT(text, EndsWith(R"("ended":true}]})"));
  EXPECT_THAT(progress_json("x", three_ranks(), false), Not(HasSubstr("ranks")));
}

TEST(ProgressMode, IsReadFromItsName) {
  EXPECT_EQ(progress_mode_from_name("auto"), ProgressMode::kAuto);
  EXPECT_EQ(progress_mode_from_name("bar"), ProgressMode::kBar);
  EXPECT_EQ(progress_mode_from_name("plain"), ProgressMode::kPlain);
  EXPECT_EQ(progress_mode_from_name("ranks"), ProgressMode::kRanks);
  EXPECT_EQ(progress_mode_from_name("none"), ProgressMode::kNone);

  const Error error = error_of([] { (void)progress_mode_from_name("fancy"); });
  EXPECT_EQ(error.code(), ErrorCode::kUsage);
  EXPECT_THAT(error.what(), HasSubstr("\"fancy\""));
}

TEST(ProgressMeter, PlainPrintsALastLineOnce) {
  ProgressCounters done;
  done.source_bytes_done = kTotals.source_bytes;

  const std::string text = stderr_of([&] {
    ProgressMeter meter(done, kTotals, {.mode = ProgressMode::kPlain}, "verify");
    meter.finish();
    meter.finish();
  });

  EXPECT_THAT(text, StartsWith("verify 100.0 %"));
  EXPECT_THAT(text, EndsWith("in 00:00\n"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
}

TEST(ProgressMeter, AutoIsPlainAwayFromATerminal) {
  const ProgressCounters done;

  const std::string text = stderr_of([&] { ProgressMeter(done, kTotals, {.mode = ProgressMode::kAuto}, "x"); });

  EXPECT_THAT(text, Not(HasSubstr("\r")));
  EXPECT_THAT(text, EndsWith("\n"));
}

TEST(ProgressMeter, BarRedrawsInPlaceAndClearsItself) {
  const ProgressCounters done;

  const std::string text = stderr_of([&] {
    const ProgressMeter meter(done, kTotals, {.mode = ProgressMode::kBar}, "quantize");
    std::this_thread::sleep_for(500ms);
  });

  const auto draws = std::count(text.begin(), text.end(), '\r') - 1;
  EXPECT_GE(draws, 1);
  EXPECT_LE(draws, 3) << "at most five a second";
  EXPECT_THAT(text, Not(HasSubstr("\n")));
  EXPECT_THAT(text, HasSubstr("quantize   0.0 %"));
  EXPECT_THAT(text, EndsWith("\r\x1b[K"));
}

TEST(ProgressMeter, PrintsJsonLinesWhereABarWasAskedFor) {
  const ProgressCounters done;

  const std::string text = stderr_of([&] {
    const ProgressMeter meter(done, kTotals, {.mode = ProgressMode::kBar, .format = LogFormat::kJson, .interval = 50ms},
                              "quantize");
    std::this_thread::sleep_for(180ms);
  });

  EXPECT_GE(std::count(text.begin(), text.end(), '\n'), 2);
  EXPECT_THAT(text, StartsWith("{\"time\":\""));
  EXPECT_THAT(text, EndsWith("}\n"));
  EXPECT_THAT(text, Not(HasSubstr("\r")));
}

TEST(ProgressMeter, RanksPrintsALineForEach) {
  const ProgressCounters done;
  RankBoard board;
  board.set({{.rank = 0, .host = "a"}, {.rank = 1, .host = "b"}});

  const std::string text =
      stderr_of([&] { ProgressMeter(done, kTotals, {.mode = ProgressMode::kRanks}, "quantize", &board); });

  EXPECT_THAT(text, HasSubstr("\n  rank 0 on a "));
  EXPECT_THAT(text, HasSubstr("\n  rank 1 on b "));
}

TEST(ProgressMeter, NonePrintsNothing) {
  const ProgressCounters done;

  EXPECT_EQ(stderr_of([&] { ProgressMeter(done, kTotals, {.mode = ProgressMode::kNone}, "x"); }), "");
}

}  // namespace
}  // namespace halfquad
