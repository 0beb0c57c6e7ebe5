#include <algorithm>
#include <set>
#include <sstream>

#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <gmock/gmock.h>

#include "launcher/job_status.h"

namespace halfquad {
namespace {

using testing::HasSubstr;
using testing::Not;

JobStatus job() {
  JobStatus status;
  status.command = "quantize";
  status.arguments = {"halfquad", "quantize", "m", "a\"b\\c\nd"};
  status.output = "/out/a\"b\\c\nd";
  status.host = "node1";
  status.pid = 17;
  status.started_us = 1'800'000'000'000'000;
  status.updated_us = 1'800'000'010'250'000;
  status.phase = "quantizing";
  status.warnings = 2;
  ProgressSnapshot& now = status.progress;
  now.bytes_read = 500;
  now.bytes_written = 120;
  now.weights_done = 250;
  now.source_bytes_done = 400;
  now.source_bytes_before = 100;
  now.tensors_done = 3;
  now.totals = {.source_bytes = 1000, .weights = 500, .tensors = 9};
  now.seconds = 10.25;
  now.eta_seconds = 20.5;
  now.ranks = {{.rank = 0, .host = "node1", .bytes_read = 300, .source_bytes_done = 250},
               {.rank = 1, .host = "node2", .bytes_read = 200, .source_bytes_done = 50, .silent_seconds = 0.5}};
  return status;
}

TEST(JobStatus, JsonHoldsEveryDocumentedField) {
  const boost::json::value text = status_json(job());

  EXPECT_EQ(boost::json::serialize(text.at("done")),
            R"({"source_bytes":400,"source_bytes_by_earlier_runs":100,"weights":250,"tensors":3,"bytes_read":500,)"
            R"("bytes_written":120})");
  EXPECT_EQ(boost::json::serialize(text.at("total")), R"({"source_bytes":1000,"weights":500,"tensors":9})");
  EXPECT_EQ(text.at("state").as_string(), "running");
  EXPECT_EQ(text.at("phase").as_string(), "quantizing");
  EXPECT_EQ(text.at("started").as_string(), "2027-01-15T08:00:00.000Z");
  EXPECT_EQ(text.at("updated").as_string(), "2027-01-15T08:00:10.250Z");
  EXPECT_DOUBLE_EQ(text.at("fraction").as_double(), 0.4);
  EXPECT_DOUBLE_EQ(text.at("eta_seconds").as_double(), 20.5);
  EXPECT_TRUE(text.at("exit_code").is_null());
  EXPECT_TRUE(text.at("error").is_null());
  EXPECT_EQ(text.at("slowest_rank").at("rank").as_int64(), 1);
  EXPECT_EQ(text.at("slowest_rank").at("host").as_string(), "node2");
  EXPECT_EQ(text.at("ranks").as_array().size(), 2U);
  EXPECT_EQ(text.at("ranks").at(1).at("silent_seconds").as_double(), 0.5);
}

TEST(JobStatus, NothingIsDoneBeforeItIsKnownWhatThereIsToDo) {
  JobStatus status = job();
  status.phase = "preparing";
  status.progress = {};

  EXPECT_EQ(status_json(status).at("fraction").as_double(), 0);
  EXPECT_THAT(status_metrics(status),
              HasSubstr("halfquad_job_progress_ratio{output=\"/out/a\\\"b\\\\c\\nd\"} 0.000000"));

  status.end = JobStatus::End{4, "why"};
  EXPECT_EQ(status_json(status).at("fraction").as_double(), 0);
  status.end = JobStatus::End{0, ""};
  EXPECT_EQ(status_json(status).at("fraction").as_double(), 1) << "an empty checkpoint is done, too";
}

TEST(JobStatus, StateFollowsTheExitCode) {
  JobStatus status = job();
  const auto state = [&](std::optional<int> code) {
    status.end = JobStatus::End{code, code == 0 ? "" : "why"};
    return std::string(status.state());
  };

  EXPECT_EQ(state(0), "done");
  EXPECT_EQ(state(75), "interrupted");
  EXPECT_EQ(state(4), "failed");
  EXPECT_EQ(state(std::nullopt), "failed");
  const boost::json::value text = status_json(status);
  EXPECT_TRUE(text.at("exit_code").is_null());
  EXPECT_EQ(text.at("error").as_string(), "why");
  EXPECT_TRUE(text.at("eta_seconds").is_null()) << "nothing is expected any more";
}

/// Checks what Prometheus' text format demands of every line and returns the names of the families.
std::set<std::string> check_exposition(const std::string& text) {
  std::set<std::string> families;
  std::string family, type;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string first, second, third;
    words >> first >> second >> third;
    if (first == "#" && second == "HELP") {
      family = third;
      EXPECT_TRUE(families.insert(family).second) << "twice: " << family;
    } else if (first == "#") {
      words >> type;
      EXPECT_EQ(second, "TYPE");
      EXPECT_EQ(third, family);
      EXPECT_TRUE(type == "gauge" || type == "counter") << line;
      EXPECT_EQ(type == "counter", family.ends_with("_total")) << line;
    } else {
      EXPECT_EQ(line.substr(0, line.find('{')), family) << line;
      EXPECT_NE(line.find("{output=\""), std::string::npos) << line;
      EXPECT_NO_THROW((void)std::stod(line.substr(line.rfind(' ')))) << line;
    }
  }
  EXPECT_TRUE(text.ends_with('\n'));
  return families;
}

TEST(JobStatus, MetricsKeepThePrometheusConventions) {
  const std::string text = status_metrics(job());
  const std::set<std::string> families = check_exposition(text);

  EXPECT_THAT(text, HasSubstr("# HELP halfquad_processed_source_bytes_total "));
  EXPECT_THAT(text, HasSubstr("# TYPE halfquad_processed_source_bytes_total counter\n"
                              R"(halfquad_processed_source_bytes_total{output="/out/a\"b\\c\nd"} 400)"
                              "\n"));
  EXPECT_THAT(text, HasSubstr(R"(,rank="1",host="node2"} 50)"));
  EXPECT_THAT(text, HasSubstr(R"(halfquad_job_remaining_seconds{output="/out/a\"b\\c\nd"} 20.500)"));
  EXPECT_THAT(text, HasSubstr(R"(halfquad_job_running{output="/out/a\"b\\c\nd"} 1)"));
  EXPECT_FALSE(families.contains("halfquad_job_exit_code"));
}

TEST(JobStatus, MetricsOfAnEndedJobHaveItsExitCode) {
  JobStatus status = job();
  status.end = JobStatus::End{75, "interrupted"};
  status.progress.eta_seconds.reset();
  status.progress.ranks.clear();

  const std::string text = status_metrics(status);
  check_exposition(text);

  EXPECT_THAT(text, HasSubstr(R"(halfquad_job_exit_code{output="/out/a\"b\\c\nd"} 75)"));
  EXPECT_THAT(text, HasSubstr(R"(halfquad_job_running{output="/out/a\"b\\c\nd"} 0)"));
  EXPECT_THAT(text, Not(HasSubstr("remaining")));
  EXPECT_THAT(text, Not(HasSubstr("halfquad_rank")));
}

}  // namespace
}  // namespace halfquad
