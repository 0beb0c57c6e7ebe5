// Importance files on the command line: who takes what, what is said of it, what is refused.
#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <gmock/gmock.h>

#include "launcher/exit_code.h"
#include "tests/support/faulty_file_system.h"
#include "tests/support/test_checkpoint.h"
#include "tests/unit/launcher/cli_fixture.h"

namespace halfquad {
namespace {

namespace json = boost::json;

using test::CliTest;
using test::get_file;
using test::Outcome;
using testing::HasSubstr;
using testing::Not;

class ImportanceTest : public CliTest {
 protected:
  ImportanceTest() {
    const Outcome made = run({"synth", model_, "--layers", "2", "--threads", "2", "--progress", "none"});
    EXPECT_EQ(made.code, kExitDone) << made.err;
    EXPECT_EQ(quantize("plain").code, kExitDone);
    plain_ = report_of("plain");
  }

  Outcome quantize(const std::string& out, const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {"quantize", model_, path(out), "--progress", "none", "--threads", "2"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }

  [[nodiscard]] std::vector<std::string> arguments(const std::string& out) const {
    return {"quantize", model_, path(out), "--progress", "none", "--threads", "1"};
  }

  static std::vector<std::string> with(std::vector<std::string> options, const std::vector<std::string>& more) {
    options.insert(options.end(), more.begin(), more.end());
    return options;
  }

  [[nodiscard]] std::string weights_of(const std::string& out) const {
    return get_file(path(out) + "/model.safetensors");
  }

  json::object report_of(const std::string& out) {
    return json::parse(get_file(path(out) + "/halfquad_report.json")).as_object();
  }

  /// A file with a vector for each layer but those whose name has `without` in it. `seed` makes others.
  std::string put_vectors(const std::string& without, int seed = 1) {
    std::vector<test::TestTensor> vectors;
    for (const json::value& layer : plain_.at("layers").as_array()) {
      const std::string module(layer.at("module").as_string());
      if (!without.empty() && module.find(without) != std::string::npos) continue;
      const std::int64_t cols = layer.at("shape").at(1).as_int64();
      std::vector<float> values;
      for (std::int64_t col = 0; col < cols; ++col) values.push_back(static_cast<float>(1 + col * seed % 97));
      vectors.push_back(test::f32_tensor(module, {cols}, values));
    }
    test::put_safetensors(path("given.safetensors"), vectors);
    return path("given.safetensors");
  }

  std::string model_ = path("model");
  json::object plain_;
};

TEST_F(ImportanceTest, GoesToTheLayersThatItNames) {
  const std::string file = put_vectors("layers.1.mlp.down_proj");

  const Outcome outcome = quantize("out", {"--importance", file, "--solver", "als"});

  ASSERT_EQ(outcome.code, kExitDone) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("columns weighted as measured"));
  EXPECT_THAT(outcome.out, HasSubstr("13 of 14 layers from"));
  EXPECT_THAT(outcome.out, HasSubstr("1 without an entry by their own weights"));
  EXPECT_THAT(outcome.out, HasSubstr("(weighted "));
  const json::object report = report_of("out");
  const json::object& importance = report.at("importance").as_object();
  EXPECT_EQ(importance.at("kind").as_string(), "safetensors");
  EXPECT_EQ(importance.at("layers").to_number<int>(), 13);
  EXPECT_EQ(importance.at("missing").as_array(), (json::array{"model.layers.1.mlp.down_proj.weight"}));
  for (const json::value& layer : report.at("layers").as_array()) {
    const bool missing = layer.at("module").as_string() == "model.layers.1.mlp.down_proj";
    EXPECT_EQ(layer.at("importance").as_string(), missing ? "weights" : "file");
    EXPECT_GT(layer.at("weighted_relative_error").as_double(), 0);
  }
}

TEST_F(ImportanceTest, IsWhatVerifyMeasuresErrorsBy) {
  const std::string file = put_vectors("");
  for (const std::string format : {"hqq", "awq", "gguf"}) {
    SCOPED_TRACE(format);
    ASSERT_EQ(quantize(format, {"--format", format, "--group-size", "32", "--importance", file, "--solver", "als",
                                "--rule", "o_proj=importance:weights", "--rule", "down_proj=importance:none"})
                  .code,
              kExitDone);
    const auto verify = [&](const std::vector<std::string>& more) {
      std::vector<std::string> arguments = {"verify", path(format), "--source", model_, "--json", "--progress", "none"};
      arguments.insert(arguments.end(), more.begin(), more.end());
      const Outcome verified = run(arguments);
      EXPECT_EQ(verified.code, kExitDone) << verified.err;
      return json::parse(verified.out).at("layers").as_array();
    };
    std::map<std::string, const json::value*, std::less<>> reported;
    const json::object report = report_of(format);
    for (const json::value& layer : report.at("layers").as_array()) {
      reported[std::string(layer.at("module").as_string())] = &layer.at("weighted_relative_error");
    }
    for (const json::value& layer : verify({"--importance", file})) {
      const std::string module(layer.at("module").as_string());
      SCOPED_TRACE(module);
      const json::value& found = layer.at("weighted_relative_error");
      ASSERT_EQ(found.is_null(), module.find("down_proj") != std::string::npos);
      if (found.is_null()) continue;
      EXPECT_NEAR(found.as_double() / reported.at(module)->as_double(), 1, 1e-5);
    }
    for (const json::value& layer : verify({})) {
      const std::string module(layer.at("module").as_string());
      EXPECT_EQ(layer.at("weighted_relative_error").is_null(), module.find("o_proj") == std::string::npos) << module;
    }
  }
}

TEST_F(ImportanceTest, IsNotNeededToCompareHqqWithRoundToNearest) {
  ASSERT_EQ(quantize("out", {"--solver", "hqq", "--bits", "3"}).code, kExitDone);
  ASSERT_EQ(quantize("nearest", {"--solver", "rtn", "--bits", "3"}).code, kExitDone);
  const Outcome verified = run({"verify", path("out"), "--source", model_, "--progress", "none"});
  EXPECT_THAT(verified.out, HasSubstr("larger error than round to nearest: 0 of 14 layers that hqq solved"));
  const Outcome as_json = run({"verify", path("out"), "--source", model_, "--json", "--progress", "none"});
  const json::object nearest = report_of("nearest");
  const json::array& layers = nearest.at("layers").as_array();
  const json::value found = json::parse(as_json.out);
  for (const json::value& layer : found.at("layers").as_array()) {
    const auto same = std::ranges::find_if(
        layers, [&](const json::value& other) { return other.at("module") == layer.at("module"); });
    ASSERT_NE(same, layers.end());
    EXPECT_NEAR(layer.at("nearest_relative_error").as_double() / same->at("relative_error").as_double(), 1, 1e-3);
  }
}

TEST_F(ImportanceTest, MakesOtherBytesOfWholeZerosAndBlocksToo) {
  const std::string file = put_vectors("");
  for (const std::vector<std::string>& format : {std::vector<std::string>{"--format", "awq"},
                                                 {"--format", "gptq", "--symmetric"},
                                                 {"--type", "Q4_0"},
                                                 {"--type", "Q4_1"},
                                                 {"--type", "Q3_K"}}) {
    SCOPED_TRACE(format.back());
    std::vector<std::string> given = format;
    given.insert(given.end(), {"--importance", file, "--solver", "als", "--overwrite"});
    std::vector<std::string> alike = format;
    alike.insert(alike.end(), {"--importance", "none", "--solver", "als", "--overwrite"});
    ASSERT_EQ(quantize("out", given).code, kExitDone);
    const json::object weighted = report_of("out");
    ASSERT_EQ(quantize("out", alike).code, kExitDone);
    const json::object plain = report_of("out");
    EXPECT_LT(plain.at("totals").at("relative_error").as_double(),
              weighted.at("totals").at("relative_error").as_double());
    EXPECT_TRUE(plain.at("totals").at("weighted_relative_error").is_null());
    EXPECT_LT(weighted.at("totals").at("weighted_relative_error").as_double(),
              plain.at("totals").at("relative_error").as_double());
  }
}

TEST_F(ImportanceTest, IsMeasuredByTheJobItself) {
  const std::string file = path("measured.safetensors");
  ASSERT_EQ(run({"importance", model_, file, "--tokens", "256", "--progress", "none"}).code, kExitDone);
  const Outcome given = quantize("given", {"--importance", file});
  ASSERT_EQ(given.code, kExitDone) << given.err;
  const Outcome measured = quantize("measured");
  ASSERT_EQ(measured.code, kExitDone) << measured.err;
  EXPECT_EQ(quantize("random", {"--importance", "random"}).code, kExitDone);

  EXPECT_EQ(weights_of("measured"), weights_of("given"));
  EXPECT_EQ(weights_of("random"), weights_of("given"));
  EXPECT_THAT(measured.out, HasSubstr("14 of 14 layers by 256 random tokens in sequences of 8, measured in "));
  const json::object about = report_of("measured").at("importance").as_object();
  EXPECT_TRUE(about.at("path").is_null());
  EXPECT_EQ(about.at("kind").as_string(), "256 random tokens in sequences of 8");
  EXPECT_EQ(about.at("xxh3"), report_of("given").at("importance").at("xxh3"));
  EXPECT_FALSE(std::filesystem::exists(path("measured/.halfquad")));
}

TEST_F(ImportanceTest, IsGuessedWhereItCannotBeMeasured) {
  const auto guesses = [&](const std::string& why, const std::vector<std::string>& options) {
    const Outcome automatic = quantize("auto", with(options, {"--overwrite"}));
    ASSERT_EQ(automatic.code, kExitDone) << automatic.err;
    EXPECT_THAT(automatic.out, HasSubstr("importance  guessed from the weights: " + why));
    EXPECT_EQ(quantize("weights", with(options, {"--overwrite", "--importance", "weights"})).code, kExitDone);
    EXPECT_EQ(weights_of("auto"), weights_of("weights"));
    const Outcome random = quantize("refused", with(options, {"--importance", "random"}));
    EXPECT_NE(random.code, kExitDone);
    EXPECT_THAT(random.err, HasSubstr(why));
  };
  test::put_file(model_ + "/config.json", R"({"model_type": "unheard-of", "hidden_size": 256})");
  guesses("config.json: no forward pass is known for model_type \"unheard-of\"", {});
}

// A NaN among the weights is refused, kept or zeroed as the job was told, whatever is run before it.
TEST_F(ImportanceTest, IsMeasuredThoughSomeWeightIsNoNumber) {
  const std::string file = model_ + "/model.safetensors";
  std::string bytes = get_file(file);
  const std::size_t header = 8 + static_cast<std::size_t>(static_cast<unsigned char>(bytes[0])) +
                             (static_cast<std::size_t>(static_cast<unsigned char>(bytes[1])) << 8U);
  const auto entry = json::parse(bytes.substr(8, header - 8)).at("model.layers.1.self_attn.o_proj.weight");
  const std::size_t at = header + entry.at("data_offsets").at(0).to_number<std::size_t>();
  bytes.replace(at, 2, "\xC0\x7F");  // BF16
  test::put_file(file, bytes);
  EXPECT_THAT(quantize("out").err, HasSubstr("o_proj.weight\" holds a NaN or infinity at [0, 0]"));
  for (const auto& options : {std::vector<std::string>{"--skip", "layers.1.self_attn.o_proj"},
                              {"--nonfinite", "keep-original"},
                              {"--nonfinite", "zero"}}) {
    const Outcome outcome = quantize("out", with(options, {"--overwrite"}));
    ASSERT_EQ(outcome.code, kExitDone) << outcome.err;
    EXPECT_THAT(outcome.out, HasSubstr("by 256 random tokens")) << options[0];
  }
  const Outcome strict = run({"importance", model_, path("strict.safetensors"), "--progress", "none"});
  EXPECT_EQ(strict.code, kExitBadInput);
  EXPECT_THAT(strict.err, HasSubstr("o_proj.weight\" holds a NaN or an infinity at element 0"));
}

TEST_F(ImportanceTest, IsNotMeasuredForNothing) {
  test::put_file(path("recipe.json"), R"({"importance": "none"})");
  const std::vector<std::vector<std::string>> all = {
      {"--solver", "hqq"}, {"--axis", "0"}, {"--importance", "none"}, {"--recipe", path("recipe.json")}};
  for (const std::vector<std::string>& options : all) {
    const Outcome outcome = quantize("out", with(options, {"--overwrite"}));
    ASSERT_EQ(outcome.code, kExitDone) << outcome.err;
    EXPECT_THAT(outcome.out, Not(HasSubstr("importance"))) << options[0];
  }
  const Outcome refused = quantize("refused", {"--solver", "rtn", "--importance", "random"});
  EXPECT_EQ(refused.code, kExitUsage);
  EXPECT_THAT(refused.err, HasSubstr("it needs --solver als"));
  const Outcome exists = quantize("out");
  EXPECT_EQ(exists.code, kExitUsage);
  EXPECT_THAT(exists.err, HasSubstr("exists; choose another OUT or pass --overwrite"));
}

TEST_F(ImportanceTest, OfAnInterruptedRunIsTaken) {
  ASSERT_EQ(quantize("whole").code, kExitDone);
  const auto counting = std::make_shared<test::FaultPlan>();
  test::FaultyFileSystem counted(*files_, counting);
  ASSERT_EQ(run_on(counted, arguments("out")).code, kExitDone);
  const std::vector<std::string> calls = counting->log();
  const auto done = std::ranges::find_if(calls, [](const std::string& call) {
    return call.find("journal") != std::string::npos && call.starts_with("sync");
  });
  ASSERT_NE(done, calls.end());
  std::filesystem::remove_all(path("out"));

  const auto dying =
      std::make_shared<test::FaultPlan>(static_cast<std::uint64_t>(done - calls.begin()) + 1, test::After::kDead);
  test::FaultyFileSystem dead(*files_, dying);
  EXPECT_EQ(run_on(dead, arguments("out")).code, kExitIo);
  const std::string kept = path("out.partial/.halfquad/importance.safetensors");
  ASSERT_TRUE(std::filesystem::exists(kept));
  const Outcome resumed = quantize("out");
  ASSERT_EQ(resumed.code, kExitDone) << resumed.err;
  EXPECT_THAT(resumed.out, HasSubstr("as the interrupted run measured them"));
  EXPECT_EQ(weights_of("out"), weights_of("whole"));

  // One that is torn is measured again.
  std::filesystem::remove_all(path("out"));
  test::FaultyFileSystem again(*files_, std::make_shared<test::FaultPlan>(
                                            static_cast<std::uint64_t>(done - calls.begin()) + 1, test::After::kDead));
  EXPECT_EQ(run_on(again, arguments("out")).code, kExitIo);
  std::filesystem::resize_file(kept, std::filesystem::file_size(kept) / 2);
  const Outcome mended = quantize("out");
  ASSERT_EQ(mended.code, kExitDone) << mended.err;
  EXPECT_THAT(mended.out, HasSubstr("measured in "));
  EXPECT_EQ(weights_of("out"), weights_of("whole"));
}

TEST_F(ImportanceTest, ThatCannotBeUsedIsRefused) {
  const std::string file = put_vectors("");
  const auto refused = [&](const std::vector<std::string>& more, int code, const std::string& part) {
    const Outcome outcome = quantize("refused", more);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(part));
  };
  refused({"--importance", path("nothing.gguf")}, kExitUsage, "is neither auto, random, weights, none nor a file");
  refused({"--importance", file, "--solver", "rtn"}, kExitUsage, "needs --solver als");
  refused({"--importance", "weights", "--rule", "down_proj=importance:file"}, kExitUsage,
          "pass --importance FILE with it");
  test::put_safetensors(path("other.safetensors"), {test::f32_tensor("model.layers.0.mlp.up_proj", {3}, {1, 2, 3})});
  refused({"--importance", path("other.safetensors")}, kExitBadInput, "holds 3 values");
  test::put_file(path("other.dat"), "this is not an importance file");
  refused({"--importance", path("other.dat")}, kExitBadInput, "neither an imatrix of llama.cpp");
}

TEST_F(ImportanceTest, MayBeLeftOutByARule) {
  const std::string file = put_vectors("");
  const Outcome outcome =
      quantize("out", {"--importance", file, "--solver", "als", "--rule", "down_proj=importance:none"});
  ASSERT_EQ(outcome.code, kExitDone) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("12 of 12 layers from"));
  EXPECT_EQ(outcome.err, "");
}

}  // namespace
}  // namespace halfquad
