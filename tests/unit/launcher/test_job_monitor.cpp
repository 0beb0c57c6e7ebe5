#include <chrono>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <gmock/gmock.h>

#include "cli_fixture.h"
#include "launcher/job_monitor.h"
#include "tests/support/faulty_file_system.h"

namespace halfquad {
namespace {

using namespace std::chrono_literals;
using test::Outcome;
using testing::HasSubstr;

class JobMonitorTest : public test::CliTest {
 protected:
  [[nodiscard]] std::unique_ptr<JobMonitor> monitor(const std::string& status, std::chrono::milliseconds interval = 1h,
                                                    const std::string& metrics = {}) {
    return std::make_unique<JobMonitor>(*files_, MonitorOptions{status, metrics}, interval,
                                        MonitoredJob{"quantize", {"halfquad", "quantize"}, "out"},
                                        [this](const std::string& text) { warnings_.push_back(text); });
  }
  static std::string read(const std::string& file) {
    std::ostringstream text;
    text << std::ifstream(file).rdbuf();
    return text.str();
  }
  static boost::json::value status_of(const std::string& file) { return boost::json::parse(read(file)); }
  /// Waits some seconds at most.
  static bool comes_true(const std::function<bool()>& condition) {
    for (int i = 0; i < 1000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(10ms);
    }
    return false;
  }

  std::vector<std::string> warnings_;
};

TEST_F(JobMonitorTest, TellsPhasesProgressAndTheEnd) {
  const auto watched = monitor(path("s.json"));
  EXPECT_EQ(status_of(path("s.json")).at("phase").as_string(), "preparing");
  EXPECT_EQ(status_of(path("s.json")).at("output").as_string(), std::filesystem::absolute("out").string());
  ProgressCounters counters;
  {
    const JobMonitor::Stage stage(*watched, "quantizing", counters, {.source_bytes = 100});
    counters.source_bytes_done = 70;
  }
  watched->phase("finishing");
  EXPECT_EQ(status_of(path("s.json")).at("done").at("source_bytes").as_int64(), 70) << "what the stage ended with";
  EXPECT_EQ(status_of(path("s.json")).at("phase").as_string(), "finishing");
  watched->count_warning();
  watched->end(0);
  watched->end(4, "too late");

  const auto last = status_of(path("s.json"));
  EXPECT_EQ(last.at("state").as_string(), "done");
  EXPECT_EQ(last.at("exit_code").as_int64(), 0);
  EXPECT_EQ(last.at("warnings").as_int64(), 1);
  EXPECT_FALSE(std::filesystem::exists(path("s.json.tmp")));
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(JobMonitorTest, BeatsEveryInterval) {
  const auto watched = monitor(path("s.json"), 20ms, path("m.prom"));
  ProgressCounters counters;
  const JobMonitor::Stage stage(*watched, "quantizing", counters, {.source_bytes = 100});
  counters.source_bytes_done = 41;

  EXPECT_TRUE(comes_true([&] { return status_of(path("s.json")).at("done").at("source_bytes").as_int64() == 41; }));
  EXPECT_TRUE(comes_true([&] { return read(path("m.prom")).find("bytes_total{") != std::string::npos; }));
}

TEST_F(JobMonitorTest, AnExceptionThatIsNoErrorCountsAsFailure) {
  { const auto watched = monitor(path("s.json")); }

  EXPECT_EQ(status_of(path("s.json")).at("state").as_string(), "failed");
  EXPECT_TRUE(status_of(path("s.json")).at("exit_code").is_null());
}

TEST_F(JobMonitorTest, WarnsOnceOfAFileThatCannotBeWritten) {
  const auto watched = monitor(path("nowhere/s.json"), 1h, path("m.prom"));
  watched->phase("a");
  watched->phase("b");
  watched->end(0);

  ASSERT_EQ(warnings_.size(), 1U);
  EXPECT_THAT(warnings_[0], HasSubstr("--status"));
  EXPECT_THAT(warnings_[0], HasSubstr("the job goes on without it"));
  EXPECT_THAT(read(path("m.prom")), HasSubstr("halfquad_job_exit_code"));
}

TEST_F(JobMonitorTest, ADiskThatIsFullForAWhileIsTriedAgain) {
  const auto plan = std::make_shared<test::FaultPlan>(6, test::After::kWorks);  // the second file's write
  test::FaultyFileSystem full(*files_, plan);
  JobMonitor watched(full, {path("s.json"), {}}, 1h, {"quantize", {}, "out"},
                     [this](const std::string& text) { warnings_.push_back(text); });
  watched.phase("a");
  EXPECT_TRUE(plan->fired());
  EXPECT_EQ(status_of(path("s.json")).at("phase").as_string(), "preparing") << "the old file stays whole";
  watched.phase("b");
  EXPECT_EQ(status_of(path("s.json")).at("phase").as_string(), "b");
  EXPECT_EQ(warnings_.size(), 1U);
  watched.end(0);
}

TEST_F(JobMonitorTest, WithoutFilesDoesNothing) {
  const auto watched = monitor("");
  watched->phase("a");
  watched->end(0);

  EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
}

TEST_F(JobMonitorTest, CommandsTellHowTheyEnded) {
  ASSERT_EQ(run({"synth", path("m"), "--preset", "tiny", "--progress", "none"}).code, 0);
  const std::vector<std::string> quiet = {"--progress", "none", "--log-level", "off", "--status", path("s.json")};
  const auto ends = [&](std::vector<std::string> arguments, int code, const std::string& state) {
    arguments.insert(arguments.end(), quiet.begin(), quiet.end());
    EXPECT_EQ(run(arguments).code, code) << arguments.front();
    const auto status = status_of(path("s.json"));
    EXPECT_EQ(status.at("state").as_string(), state) << arguments.front();
    EXPECT_EQ(status.at("exit_code").as_int64(), code) << arguments.front();
    return status;
  };

  const auto quantized = ends({"quantize", path("m"), path("q")}, 0, "done");
  EXPECT_EQ(quantized.at("done").at("source_bytes"), quantized.at("total").at("source_bytes"));
  EXPECT_EQ(quantized.at("ranks").as_array().size(), 1U);
  EXPECT_EQ(quantized.at("command").at(1).as_string(), "quantize");
  const auto refused = ends({"quantize", path("m"), path("q")}, 2, "failed");
  EXPECT_THAT(std::string(refused.at("error").as_string()), HasSubstr("exists"));
  ends({"convert", path("q"), path("c"), "--format", "mlx"}, 0, "done");
  const auto verified = ends({"verify", path("q"), "--source", path("m")}, 0, "done");
  EXPECT_EQ(verified.at("done").at("source_bytes"), verified.at("total").at("source_bytes"));
  ends({"dequantize", path("q"), path("d")}, 0, "done");
  ends({"verify", path("m")}, 3, "failed");
}

TEST_F(JobMonitorTest, ErrorsAreJsonLinesWhenAsked) {
  const Outcome outcome = run({"quantize", path("nothing"), path("q"), "--log-format", "json"});

  const auto line = boost::json::parse(outcome.err);
  EXPECT_EQ(line.at("level").as_string(), "error");
  EXPECT_EQ(line.at("exit_code").as_int64(), outcome.code);
  EXPECT_THAT(std::string(line.at("message").as_string()), HasSubstr("nothing"));
  EXPECT_EQ(boost::json::parse(run({"quantize", "--log-format=json"}).err).at("exit_code").as_int64(), 2);
}

}  // namespace
}  // namespace halfquad
