#include <filesystem>
#include <fstream>
#include <iterator>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli_fixture.h"
#include "launcher/engines.h"
#include "sharding/format.h"

namespace halfquad {
namespace {

using test::Outcome;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

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
  // 16 GB at 0.2 GB/s are 80 s, twice, once for measuring. Four ranks of 1.5 GiB, half a GiB beside each, one for each
  // GPU.
  EXPECT_THAT(outcome.out, HasSubstr("8 ranks of 6 cores without what their GPUs add, bound by reading"));
  EXPECT_THAT(outcome.out, HasSubstr("\n#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=4\n#SBATCH --cpus-per-task=6\n"
                                     "#SBATCH --gpus-per-node=4\n#SBATCH --mem=12G\n#SBATCH --time=00:20:00\n"
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

TEST_F(PlanCommand, AnswersWhetherItFitsOnACard) {
  const auto plan = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"plan", "--preset", "llama-8b", "--log-level", "off"});
    const Outcome outcome = run(more);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.out;
  };
  const std::string text = plan({"--threads", "3"});
  EXPECT_THAT(text, HasSubstr("\"llama-8b\": llama, 8.03 G weights"));
  EXPECT_THAT(text, HasSubstr("fits on 24.0 GiB, with "));
  EXPECT_THAT(text, HasSubstr("cache 1.0 GiB (8192 tokens; 32 layers, 8 key/value heads of 128, 16 bit)"));
  EXPECT_THAT(text, HasSubstr("1.0 GiB for the engine (assumed)"));
  EXPECT_THAT(text, HasSubstr("(assumed; --measure"));
  EXPECT_THAT(text, HasSubstr("\n  compressed-tensors  5.5 GiB  vLLM; transformers 5"));
  EXPECT_THAT(text, Not(HasSubstr("in parentheses")));
  EXPECT_THAT(plan({"--card", "6GiB", "--context", "2048"}), HasSubstr("does not fit on 6.0 GiB: "));
  EXPECT_THAT(plan({"--bits", "3", "--card", "7GiB"}),
              AllOf(HasSubstr("torchao                     -  not so: torchao has no 3-bit codes"),
                    HasSubstr("(8.9 GiB)"), HasSubstr("in parentheses: too large")));
}

TEST_F(PlanCommand, JsonHoldsTheCardTheChoicesAndTheFormats) {
  const auto plan = boost::json::parse(run({"plan", "--preset", "llama-8b", "--json"}).out);

  const auto& card = plan.at("card");
  EXPECT_EQ(card.at("needed_bytes").to_number<std::uint64_t>(),
            plan.at("output_bytes").to_number<std::uint64_t>() + (std::uint64_t{2} << 30));
  EXPECT_EQ(card.at("cache").at("bytes").to_number<std::uint64_t>(), std::uint64_t{1} << 30);
  EXPECT_TRUE(card.at("fits").as_bool());
  EXPECT_EQ(plan.at("choices").as_array().size(), 21U);
  bool found = false;
  for (const auto& choice : plan.at("choices").as_array()) {
    if (choice.at("options").as_string() != "--bits 4 --group-size 64") continue;
    found = true;
    EXPECT_EQ(choice.at("bytes"), plan.at("output_bytes")) << "the plan's own settings";
    EXPECT_DOUBLE_EQ(choice.at("bits_per_weight").as_double(), plan.at("bits_per_weight").as_double());
  }
  EXPECT_TRUE(found);
  ASSERT_EQ(plan.at("formats").as_array().size(), formats().size());
  EXPECT_EQ(plan.at("formats").at(0).at("bytes"), plan.at("output_bytes"));
  EXPECT_TRUE(plan.at("rates").at("assumed").as_bool());
  EXPECT_EQ(plan.at("nodes").as_array().size(), 3U);
}

TEST_F(PlanCommand, FitsACardAndPrintsACommandThatMakesIt) {
  ASSERT_EQ(run({"synth", path("a model"), "--preset", "tiny", "--progress", "none"}).code, 0);
  const auto fit = [&](const std::string& size, std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"plan", path("a model"), "--fit", size, "--json", "--log-level", "off"});
    const Outcome outcome = run(more);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return boost::json::parse(outcome.out);
  };
  EXPECT_EQ(fit("24GiB").at("fit").at("options").as_string(), "--bits 8 --group-size 32");

  // 1 GiB for the engine, 4 MiB for the cache: the rest is for the weights.
  const auto small = fit("1030MiB", {"--skip", "o_proj"});
  const std::string options(small.at("fit").at("options").as_string());
  EXPECT_EQ(options.rfind("--bits ", 0), 0U) << options;
  EXPECT_EQ(std::string(small.at("fit").at("command").as_string()), "halfquad quantize '" + path("a model") +
                                                                        "' 'a model-hqq-" + options.substr(7, 1) +
                                                                        "bit' " + options + " --skip o_proj");
  EXPECT_EQ(small.at("output_bytes"), small.at("fit").at("bytes")) << "the plan is of the choice";
  EXPECT_TRUE(small.at("card").at("fits").as_bool());
  ASSERT_EQ(run({"quantize", path("a model"), path("q"), "--bits", options.substr(7, 1), "--group-size",
                 options.substr(options.rfind(' ') + 1), "--skip", "o_proj", "--progress", "none"})
                .code,
            0);
  const auto size = std::filesystem::file_size(path("q/model.safetensors"));
  EXPECT_GE(size, small.at("fit").at("bytes").to_number<std::uint64_t>());
  EXPECT_LT(size, small.at("fit").at("bytes").to_number<std::uint64_t>() + 65536) << "and its header";

  EXPECT_EQ(
      std::string(fit("1034MiB", {"--format", "gguf"}).at("fit").at("options").as_string()).rfind("--mixture Q", 0),
      0U);
}

TEST_F(PlanCommand, SaysWhatIsMissingWhenNothingFits) {
  const auto refuse = [&](std::vector<std::string> arguments, const std::string& part) {
    arguments.insert(arguments.begin(), {"plan", "--preset", "llama-8b"});
    const Outcome outcome = fail(arguments);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_THAT(outcome.err, HasSubstr(part));
  };
  refuse({"--fit", "4GiB"}, "nothing fits 4.0 GiB: the smallest hqq output (--bits 1 --group-size 128) takes 3.0 GiB");
  refuse({"--fit", "8GiB", "--bits", "4"}, "leave --bits");
  refuse({"--fit", "8GiB", "--card", "8GiB"}, "leave --card out");
  refuse({"--card", "huge"}, "--card: \"huge\"");
}

TEST_F(PlanCommand, SpeaksOfNoCacheForAnEncoder) {
  ASSERT_EQ(run({"synth", path("m"), "--preset", "tiny", "--progress", "none"}).code, 0);
  std::ofstream(path("m/config.json")) << R"({"model_type": "bert", "architectures": ["BertModel"]})";

  EXPECT_THAT(run({"plan", path("m"), "--log-level", "off"}).out, HasSubstr("+ no cache (an encoder) + 1.0 GiB"));
}

TEST(FormatSupport, IsTheTableOfReadme) {
  std::ifstream readme(HALFQUAD_GOLDEN_DIR "/../../README.md");
  const std::string text{std::istreambuf_iterator<char>(readme), {}};
  ASSERT_FALSE(text.empty());
  for (const FormatSupport& row : format_support()) {
    const std::string usual = row.format == "hqq" ? " (default)" : "";
    const std::string line = "\n| `" + std::string(row.format) + "`" + usual + " | " + std::string(row.holds) + " | " +
                             std::string(row.loaded_by) + " |\n";
    EXPECT_THAT(text, HasSubstr(line));
  }
  ASSERT_EQ(format_support().size(), formats().size());
  for (std::size_t i = 0; i < formats().size(); ++i) {
    EXPECT_NE(loaded_by(formats()[i]->name()), "") << formats()[i]->name();
  }
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
