#include <fstream>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli_fixture.h"

namespace halfquad {
namespace {

using test::Outcome;
using testing::HasSubstr;

class PlanCommand : public test::CliTest {
 protected:
  std::string rates_file(const std::string& text) {
    std::ofstream(path("rates.json")) << text;
    return path("rates.json");
  }
};

TEST_F(PlanCommand, ShowsEveryRanksShareOfAPreset) {
  const Outcome outcome = run({"plan", "--preset", "llama-8b", "--ranks", "16", "--nodes", "2", "--json"});

  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto plan = boost::json::parse(outcome.out);
  const auto& shares = plan.at("ranks").at("shares").as_array();
  ASSERT_EQ(shares.size(), 16U);
  std::uint64_t weights = 0, read = 0;
  for (const auto& share : shares) {
    weights += share.at("weights").to_number<std::uint64_t>();
    read += share.at("source_bytes").to_number<std::uint64_t>();
  }
  EXPECT_EQ(weights, plan.at("quantized_weights").to_number<std::uint64_t>());
  EXPECT_EQ(read, plan.at("read_bytes").to_number<std::uint64_t>());
  const auto& simulation = plan.at("ranks").at("simulations").at(0);
  EXPECT_EQ(simulation.at("nodes").as_int64(), 2);
  EXPECT_LE(simulation.at("dynamic").at("efficiency").as_double(), 1.0);
}

TEST_F(PlanCommand, SaysWhatBoundsManyRanksAndWhereTheRatesAreFrom) {
  const std::string file = rates_file(R"({"read_gb_per_s_per_node": 1, "cores_per_rank": 3})");
  const Outcome given = run({"plan", "--preset", "llama-8b", "--ranks", "16", "--nodes", "2", "--rates", file});
  EXPECT_THAT(given.out, HasSubstr("16 on 2 nodes, 3 cores a rank"));
  EXPECT_THAT(given.out, HasSubstr("bound by reading"));
  EXPECT_THAT(given.out, HasSubstr("assumed: write_gb_per_s_per_node"));
  const Outcome overridden = run({"plan", "--preset", "llama-8b", "--ranks", "16", "--read-rate", "900GB"});
  EXPECT_THAT(overridden.out, HasSubstr("a node reads 900.00 GB/s"));
  EXPECT_THAT(overridden.out, HasSubstr("(assumed; some given or measured here)"));
}

TEST_F(PlanCommand, SimulatesAListOfRanks) {
  const Outcome outcome =
      run({"plan", "--preset", "llama-8b", "--simulate", "--ranks", "1,16,64", "--stragglers", "0.02:2"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("2 % of the ranks, 2 times slower"));
  EXPECT_THAT(outcome.out, HasSubstr("ranks  nodes  bound s"));
  EXPECT_THAT(outcome.out, HasSubstr("\n     64      8 "));
}

TEST_F(PlanCommand, AsksSlurmForWhatFitsTheJobWithMargin) {
  const std::string slow = rates_file(
      R"({"read_gb_per_s_per_node": 0.1, "write_gb_per_s_per_node": 1, "mweights_per_s_per_core": 390, "cores_per_rank": 6})");

  const Outcome outcome = run({"plan", "--preset", "llama-8b", "--slurm", "--nodes", "2", "--gpus-per-node", "4",
                               "--memory", "1536MiB", "--rates", slow});

  ASSERT_EQ(outcome.code, 0) << outcome.err;
  // 16 GB at 0.2 GB/s are 80 s. Four ranks of 1.5 GiB, half a GiB beside each, one for each GPU.
  EXPECT_THAT(outcome.out, HasSubstr("8 ranks of 6 cores without what their GPUs add, bound by reading"));
  EXPECT_THAT(outcome.out, HasSubstr("\n#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=4\n#SBATCH --cpus-per-task=6\n"
                                     "#SBATCH --gpus-per-node=4\n#SBATCH --mem=12G\n#SBATCH --time=00:15:00\n"
                                     "#SBATCH --signal=B:USR1@120\n#SBATCH --requeue\n#SBATCH --open-mode=append\n"));
  EXPECT_THAT(outcome.out, HasSubstr("many-nodes.sbatch quantize MODEL OUT --memory 1536MiB\n"));
}

TEST_F(PlanCommand, AsksSlurmForHostsAlone) {
  const Outcome outcome =
      run({"plan", "--preset", "llama-8b", "--slurm", "--nodes", "3", "--ranks", "8", "--threads", "16", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto slurm = boost::json::parse(outcome.out).at("slurm");
  const std::string lines = boost::json::serialize(slurm.at("sbatch"));
  EXPECT_THAT(lines, HasSubstr(R"("--nodes=3","--ntasks=8","--ntasks-per-node=3","--cpus-per-task=16","--mem=)"));
  EXPECT_EQ(slurm.at("script").as_string(), "cpu.sbatch");
  EXPECT_THAT(std::string(slurm.at("memory").as_string()), testing::EndsWith("MiB"));

  const Outcome one = run({"plan", "--preset", "tiny", "--slurm"});
  EXPECT_THAT(one.out,
              HasSubstr("#SBATCH --nodes=1\n#SBATCH --ntasks-per-node=4\n#SBATCH --cpus-per-task=8\n#SBATCH --mem"));
}

TEST_F(PlanCommand, AsksSlurmForTheHoursOfASlowFileSystem) {
  const std::string slow = rates_file(R"({"file_system_gb_per_s": 0.05})");
  const Outcome outcome = run({"plan", "--preset", "llama-70b", "--slurm", "--nodes", "4", "--rates", slow});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, testing::ContainsRegex("#SBATCH --time=0[1-3]:[0-5][05]:00\n"));
  EXPECT_THAT(outcome.out, HasSubstr("bound by the file system"));
}

TEST_F(PlanCommand, RefusesWhatCannotBePlanned) {
  const auto refuse = [&](std::vector<std::string> arguments, const std::string& part) {
    arguments.insert(arguments.begin(), "plan");
    EXPECT_THAT(fail(arguments).err, HasSubstr(part));
  };
  refuse({}, "MODEL");
  refuse({"model", "--preset", "tiny"}, "MODEL");
  refuse({"--preset", "gpt"}, "unknown preset \"gpt\"");
  refuse({"--preset", "tiny", "--ranks", "2", "--nodes", "3"}, "3 nodes asked for 2 ranks");
  refuse({"--preset", "tiny", "--ranks", "0"}, "--ranks \"0\"");
  refuse({"--preset", "tiny", "--ranks", "4,"}, "--ranks \"4,\"");
  refuse({"--preset", "tiny", "--ranks", "4,8"}, "--simulate");
  refuse({"--preset", "tiny", "--simulate", "--ranks", "4,8", "--nodes", "2"}, "--nodes needs one rank count");
  refuse({"--preset", "tiny", "--nodes", "2"}, "need --ranks or --simulate");
  refuse({"--preset", "tiny", "--simulate", "--stragglers", "2"}, "--stragglers \"2\"");
  refuse({"--preset", "tiny", "--ranks", "2", "--rates", rates_file("{\"speed\": 1}")}, "\"speed\"");
  refuse({"--preset", "tiny", "--slurm", "--simulate"}, "--slurm asks for one job");
  refuse({"--preset", "tiny", "--gpus-per-node", "8"}, "--gpus-per-node needs --slurm");
  refuse({"--preset", "tiny", "--slurm", "--nodes", "100000"}, "--nodes 100000");
  refuse({"--preset", "llama-8b", "--slurm", "--memory", "1MiB"}, "pass --memory");
  refuse({"--preset", "tiny", "--nonfinite", "keep-original"}, "preset without weights");
}

}  // namespace
}  // namespace halfquad
