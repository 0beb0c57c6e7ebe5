#include <cmath>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launcher/page/charts.h"
#include "launcher/page/html.h"
#include "launcher/page/page.h"
#include "launcher/page/scale.h"
#include "launcher/page/svg.h"
#include "launcher/time_line.h"
#include "tests/support/expect_error.h"
#include "tests/unit/launcher/sample_report.h"

namespace halfquad {
namespace {

using namespace page;  // NOLINT: what is tested
using test::parsed;
using test::sample_layer;
using test::sample_report;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

/// Numbers of one attribute of all elements of a class, in their order.
std::vector<double> attribute(const std::string& svg, const std::string& css_class, const std::string& name) {
  std::vector<double> values;
  const std::string element = " class=\"" + css_class + "\"";
  const std::string start = " " + name + "=\"";
  for (std::size_t at = svg.find(element); at != std::string::npos; at = svg.find(element, at + 1)) {
    const std::size_t found = svg.find(start, at);
    if (found < svg.find('>', at)) values.push_back(std::stod(svg.substr(found + start.size())));
  }
  return values;
}

TEST(Escaped, LeavesNoMarkup) {
  EXPECT_EQ(escaped("<script>alert(\"1\") && 'x'</script>"),
            "&lt;script&gt;alert(&quot;1&quot;) &amp;&amp; &#39;x&#39;&lt;/script&gt;");
}

TEST(Escaped, ShowsControlCharactersAndThoseThatTurnText) {
  EXPECT_EQ(escaped(std::string("a\0b\n\t\x1b[31m\x7f", 11)), "a\\x00b\\n\\x09\\x1b[31m\\x7f");
  EXPECT_EQ(escaped("w\u202eeight\u200b\ufeff\u0085"), "w\\u202eeight\\u200b\\ufeff\\x85");
  EXPECT_EQ(escaped("gewöhnlich 模型 😀"), "gewöhnlich 模型 😀");
}

TEST(Escaped, ShowsBytesThatAreNoText) { EXPECT_EQ(escaped("a\xff<b"), "&quot;a\\xff&lt;b&quot;"); }

TEST(Shortened, KeepsBothEndsAndWholeCharacters) {
  EXPECT_EQ(shortened("abcdefghij", 10), "abcdefghij");
  EXPECT_EQ(shortened("abcdefghijk", 10), "abc…fghijk");
  EXPECT_EQ(shortened("äöüäöüäöü", 4), "ä…öü");
  EXPECT_EQ(characters("äö模"), 3U);
}

TEST(HtmlTable, HasCaptionAndHeaders) {
  HtmlTable table("A & B", {{"name"}, {"count", true}});
  table.add_row({"x", "1"});

  EXPECT_THAT(table.html(),
              AllOf(HasSubstr("<caption>A &amp; B</caption>"), HasSubstr("<th scope=\"row\">x</th>"),
                    HasSubstr("<th scope=\"col\" class=\"n\">count</th>"), HasSubstr("<td class=\"n\">1</td>")));
  test::expect_error(ErrorCode::kInternal, {"cells"}, [&] { table.add_row({"x"}); });
}

TEST(Scale, MapsEndsToEnds) {
  const LinearScale scale({10, 20}, {100, 300});
  EXPECT_EQ(scale(10), 100);
  EXPECT_EQ(scale(15), 200);
  EXPECT_EQ(scale(20), 300);
  EXPECT_EQ(LinearScale({5, 5}, {0, 10})(5), 5);  // no length: in the middle
  EXPECT_EQ(LinearScale({0, 0}, {0, 10})(0), 5);
}

TEST(Scale, TicksAreRoundAndWithin) {
  EXPECT_THAT(nice_ticks(0, 1, 6), ElementsAre(0, 0.2, 0.4, 0.6000000000000001, 0.8, 1));
  EXPECT_THAT(nice_ticks(3, 17, 6), ElementsAre(5, 10, 15));
  EXPECT_THAT(nice_ticks(4, 4, 6), ElementsAre(4));
  EXPECT_THAT(covering_ticks(17, 6), ElementsAre(0, 5, 10, 15, 20));
  EXPECT_THAT(covering_ticks(20, 6), ElementsAre(0, 5, 10, 15, 20));
  EXPECT_THAT(covering_ticks(0, 6), ElementsAre(0, 1));
  for (const double high : {1e-30, 0.07, 3.3, 1e5, 1e300}) {
    const std::vector<double> ticks = nice_ticks(0, high, 6);
    EXPECT_GE(ticks.size(), 3U) << high;
    EXPECT_LE(ticks.size(), 6U) << high;
    EXPECT_LE(ticks.back(), high * (1 + 1e-9)) << high;
  }
  EXPECT_LE(nice_ticks(1e300, std::nextafter(1e300, 2e300), 6).size(), 7U);  // steps below the numbers' precision
}

TEST(Scale, ClassesCoverTheRange) {
  const std::vector<double> boundaries = class_boundaries(0.061, 0.099, 7);
  EXPECT_LE(boundaries.size(), 6U);
  EXPECT_GE(boundaries.size(), 3U);
  EXPECT_EQ(class_of(0.061, boundaries), 0);
  EXPECT_EQ(class_of(0.099, boundaries), static_cast<int>(boundaries.size()));
  EXPECT_EQ(class_of(boundaries[1], boundaries), 2);  // a boundary belongs to the class above
  EXPECT_TRUE(class_boundaries(0.5, 0.5, 7).empty());
  for (const double high : {0.0613, 0.07, 0.5, 17.0, 1e9})
    EXPECT_LE(class_boundaries(0.061, high, 7).size(), 6U) << high;
}

TEST(Scale, WritesNumbersShort) {
  EXPECT_EQ(tick_text(0.30000000000000004, 0.1), "0.3");
  EXPECT_EQ(tick_text(2, 0.5), "2.0");
  EXPECT_EQ(tick_text(20000, 10000), "20k");
  EXPECT_EQ(tick_text(1500000, 500000), "1.5M");
  EXPECT_EQ(tick_text(2000, 500), "2.0k");
  EXPECT_EQ(tick_text(0.00002, 0.00001), "2e-05");
  EXPECT_EQ(pixel(3.10), "3.1");
  EXPECT_EQ(pixel(-0.001), "0");
  EXPECT_EQ(pixel(250), "250");
}

TEST(StackedBars, PartsFollowEachOther) {
  const std::string svg = stacked_bars({.label = "sizes",
                                        .rows = {{"before", {{"quantized", 60, "q"}, {"kept", 40, "k"}}, "100"},
                                                 {"after", {{"quantized", 15, "q"}, {"kept", 40, "k"}}, "55"}}});

  const std::vector<double> quantized = attribute(svg, "quantized", "width");
  const std::vector<double> kept = attribute(svg, "kept", "width");
  ASSERT_EQ(quantized.size(), 4U);  // for wide pages, then for narrow ones
  EXPECT_NEAR((quantized[0] + 1) / (quantized[1] + 1), 4, 1e-2);
  EXPECT_NEAR(kept[0], kept[1], 0.02);
  EXPECT_NEAR(attribute(svg, "kept", "x")[0], attribute(svg, "quantized", "x")[0] + quantized[0] + 1, 0.02);
  EXPECT_LE(attribute(svg, "kept", "x")[0] + kept[0], kChartWidth);
  EXPECT_LE(attribute(svg, "kept", "x")[2] + kept[2], kNarrowWidth);
}

TEST(HeatMap, PutsCellsWhereTheyBelong) {
  HeatMap map{.label = "errors", .rows = {"q", "k"}, .columns = {"0", "1", "2"}, .column_title = "block", .cells = {}};
  map.cells.resize(6);
  map.cells[0] = {"h0", "0.1", "first"};
  map.cells[5] = {"h6", "0.9", "<last>"};
  const std::string svg = heat_map(map);

  const std::vector<double> x0 = attribute(svg, "h0", "x"), x5 = attribute(svg, "h6", "x");
  EXPECT_NEAR(x5[0] - x0[0], 2 * 96, 0.01);  // two of the widest cells
  EXPECT_NEAR(attribute(svg, "h6", "y")[0] - attribute(svg, "h0", "y")[0], 24, 0.01);
  EXPECT_THAT(svg,
              AllOf(HasSubstr("<title>&lt;last&gt;</title>"), HasSubstr(">0.9</text>"), HasSubstr("role=\"img\"")));
}

TEST(HeatMap, HoldsHundredsOfBlocks) {
  HeatMap map{.label = "errors", .rows = {"q"}, .columns = {}, .column_title = "block", .cells = {}};
  for (int i = 0; i < 300; ++i) {
    map.columns.push_back(std::to_string(i));
    map.cells.push_back(HeatMap::Cell{"h1", "0.1", ""});
  }
  const std::string svg = heat_map(map);

  const std::vector<double> x = attribute(svg, "h1", "x"), width = attribute(svg, "h1", "width");
  ASSERT_EQ(x.size(), 300U);
  for (std::size_t i = 1; i < x.size(); ++i) EXPECT_GE(x[i] + 1e-9, x[i - 1] + width[i - 1]);
  const std::vector<double> ticks = attribute(svg, "tick", "x");
  for (std::size_t i = 1; i < ticks.size(); ++i) EXPECT_GE(ticks[i] - ticks[i - 1], 3 * kLabelCharacter);
}

TEST(Histogram, AreaFollowsTheCounts) {
  ValueHistogram::View bins{.low = -1, .width = 1, .counts = {5, 10}, .below = 0, .above = 0};
  const std::string svg = histogram_chart({.label = "weights", .bins = bins, .outline = {}, .x_title = "weight"});

  // Bottom left; half and full height; bottom right.
  EXPECT_THAT(svg, HasSubstr("d=\"M62 140L62 75H245L245 10H428V140Z\""));
}

TEST(LineChart, StaysWithinThePlot) {
  const std::string svg =
      line_chart({.label = "lines", .series = {{{0, 0.1}, {40, 0.4}}, {{3, 0.2}}}, .x_title = "x", .y_title = "y"});

  for (const double x : attribute(svg, "mark s0", "cx")) {
    EXPECT_GE(x, 72);
    EXPECT_LE(x, kChartWidth);
  }
  EXPECT_THAT(
      svg, AllOf(HasSubstr("class=\"line s0\""), Not(HasSubstr("class=\"line s1\"")), HasSubstr("class=\"mark s1\"")));
}

const std::string kTrace =
    R"({"displayTimeUnit":"ms","traceEvents":[
{"ph":"M","name":"process_name","pid":0,"args":{"name":"rank 0"}},
{"ph":"M","name":"thread_name","pid":0,"tid":0,"args":{"name":"reader 0"}},
{"ph":"M","name":"thread_name","pid":0,"tid":1,"args":{"name":"worker 0"}},
{"ph":"M","name":"thread_name","pid":1,"tid":2,"args":{"name":"worker 0"}},
{"ph":"X","pid":0,"tid":0,"ts":0,"dur":250000,"name":"read a #0"},
{"ph":"X","pid":0,"tid":1,"ts":250000,"dur":500000,"name":"solve a #0"},
{"ph":"X","pid":1,"tid":2,"ts":500000,"dur":500000,"name":"finish b #1"}
]}
)";

TEST(TimeLine, SharesTimeOutToSlices) {
  const TimeLine line = parse_time_line(kTrace, "trace", {.slices = 4, .most_rows = 10});

  EXPECT_DOUBLE_EQ(line.seconds, 1);
  ASSERT_EQ(line.rows.size(), 3U);
  EXPECT_EQ(line.rows[0].name, "rank 0, reader 0");
  EXPECT_EQ(line.rows[2].name, "rank 1, worker 0");
  EXPECT_THAT(line.rows[0].parts[0], ElementsAre(1, 0, 0, 0));
  EXPECT_THAT(line.rows[1].parts[1], ElementsAre(0, 1, 1, 0));
  EXPECT_DOUBLE_EQ(line.rows[1].seconds[1], 0.5);
  EXPECT_DOUBLE_EQ(line.rows[1].wait_seconds(line.seconds), 0.5);
}

TEST(TimeLine, PutsThreadsTogetherWhereThereAreMany) {
  const TimeLine line = parse_time_line(kTrace, "trace", {.slices = 4, .most_rows = 2});

  ASSERT_EQ(line.rows.size(), 2U);
  EXPECT_EQ(line.rows[0].name, "ranks 0 to 1, 1 reader");
  EXPECT_EQ(line.rows[1].name, "ranks 0 to 1, 2 workers");
  EXPECT_THAT(line.rows[1].parts[1], ElementsAre(0, 0.5, 1, 0.5));
  EXPECT_EQ(line.lanes, 3U);
}

TEST(TimeLine, NamesWhatIsDamaged) {
  const auto refused = [](const std::string& text) {
    return [text] { static_cast<void>(parse_time_line(text, "t.json", {})); };
  };
  test::expect_error(ErrorCode::kBadInput, {"\"t.json\" is not a time line that halfquad wrote"}, refused("[]"));
  test::expect_error(ErrorCode::kBadInput, {"is cut off"}, refused(kTrace.substr(0, kTrace.size() - 4)));
  std::string broken = kTrace;
  broken.replace(broken.find("\"ts\":250000"), 11, "\"ts\":-50000");
  test::expect_error(ErrorCode::kBadInput, {"line 7 of", "is not a time"}, refused(broken));
  broken = kTrace;
  broken.replace(broken.find("\"dur\""), 5, "\"dur");
  test::expect_error(ErrorCode::kBadInput, {"line 6 of", "is not JSON"}, refused(broken));
}

TEST(ReportPage, HoldsNoMarkupOfNames) {
  const std::string evil = "model.layers.0.<script>alert(1)</script>\"'&\x1b";
  boost::json::object report = sample_report();
  report["layers"] = {sample_layer(evil, 0.1)};
  report["command"] = {"halfquad", evil};
  report["halfquad"] = evil;
  report.at("source").as_object()["path"] = evil;
  report.at("settings").as_object()["format"] = evil;
  report.at("kept").as_array()[0].as_object()["reason"] = evil;
  report.at("ranks").as_array()[0].as_object()["host"] = evil;
  report["tensors"] = {{evil, {{"xxh3", evil}, {"run_bytes", 1}, {"block_bytes", 1}}}};
  const ReportFile file = parsed(report, evil);
  const std::vector<OutputReport> outputs(
      2, {.name = evil, .view = view_of(file), .time_line = {}, .histograms = {}, .histogram_note = evil});

  for (const std::string& text : {report_page(std::span(outputs).first(1)), report_page(outputs)}) {
    EXPECT_EQ(text.find("<script"), std::string::npos);
    EXPECT_EQ(text.find('\x1b'), std::string::npos);
    EXPECT_THAT(text, AllOf(HasSubstr("&lt;script&gt;alert(1)"), HasSubstr("\\x1b")));
  }
}

TEST(ReportPage, StaysSmallForHundredsOfExperts) {
  boost::json::object report = sample_report();
  boost::json::array layers;
  for (int block = 0; block < 60; ++block) {
    for (int expert = 0; expert < 128; ++expert) {
      for (const char* projection : {"gate_proj", "up_proj", "down_proj"}) {
        layers.push_back(sample_layer(fmt::format("model.layers.{}.mlp.experts.{}.{}", block, expert, projection),
                                      0.05 + 0.0001 * ((block * 7 + expert) % 97)));
      }
    }
  }
  report["layers"] = layers;
  const ReportFile file = parsed(report);
  const std::vector<OutputReport> outputs(
      2, {.name = "moe", .view = view_of(file), .time_line = {}, .histograms = {}, .histogram_note = ""});

  EXPECT_LT(report_page(std::span(outputs).first(1)).size(), 300'000U);
  EXPECT_LT(report_page(outputs).size(), 300'000U);
}

}  // namespace
}  // namespace halfquad
