// Importance files on the command line: who takes what, what is said of it, what is refused.
#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <gmock/gmock.h>

#include "launcher/exit_code.h"
#include "tests/support/test_checkpoint.h"
#include "tests/unit/launcher/cli_fixture.h"

namespace halfquad {
namespace {

namespace json = boost::json;

using test::CliTest;
using test::get_file;
using test::Outcome;
using testing::HasSubstr;

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
  EXPECT_THAT(outcome.out, HasSubstr("columns weighted by a file"));
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

TEST_F(ImportanceTest, ThatCannotBeUsedIsRefused) {
  const std::string file = put_vectors("");
  const auto refused = [&](const std::vector<std::string>& more, int code, const std::string& part) {
    const Outcome outcome = quantize("refused", more);
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(part));
  };
  refused({"--importance", path("nothing.gguf")}, kExitUsage, "is neither none, weights nor a file");
  refused({"--importance", file, "--solver", "rtn"}, kExitUsage, "needs --solver als");
  refused({"--rule", "down_proj=importance:file"}, kExitUsage, "pass --importance FILE with it");
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
