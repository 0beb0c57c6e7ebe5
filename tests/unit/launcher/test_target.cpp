#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli_fixture.h"
#include "io/checkpoint.h"
#include "tests/support/test_checkpoint.h"

namespace halfquad {
namespace {

using test::Outcome;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class Target : public test::CliTest {
 protected:
  void SetUp() override {
    ASSERT_EQ(run({"synth", path("m"), "--preset", "tiny", "--layers", "8", "--progress", "none"}).code, 0);
  }
  Outcome quantize(const std::string& out, std::vector<std::string> more) {
    more.insert(more.begin(), {"quantize", path("m"), path(out), "--progress", "none", "--log-level", "off"});
    Outcome outcome = run(more);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome;
  }
  boost::json::value json_of(const std::string& name) const {
    std::ifstream file(path(name));
    return boost::json::parse(std::string{std::istreambuf_iterator<char>(file), {}});
  }
  void refuse(std::vector<std::string> more, const std::string& part) {
    more.insert(more.begin(), {"quantize", path("m"), path("refused")});
    const Outcome outcome = fail(more);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_THAT(outcome.err, HasSubstr(part));
  }
  /// Makes the first weight of a tensor a NaN, in BF16.
  void put_nan(const std::string& tensor) const {
    const Checkpoint model(*files_, path("m"));
    std::uint64_t offset = 0;
    for (const SourceTensor& found : model.tensors()) {
      if (found.name == tensor) offset = found.offset;
    }
    ASSERT_GT(offset, 0U);
    std::fstream file(path("m/model.safetensors"), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(offset)).write("\xc0\x7f", 2);
  }
  std::string bytes_of(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
};

TEST_F(Target, OfBitsIsNotExceededAndSaidInReportSummaryAndConfig) {
  const Outcome outcome = quantize("q", {"--target-bpw", "3.9", "--format", "mlx", "--group-size", "64"});

  EXPECT_THAT(outcome.out, AllOf(HasSubstr("target"), HasSubstr("--target-bpw 3.9: 3 bit, groups of 64; 4 bit in ")));
  const auto report = json_of("q/halfquad_report.json");
  EXPECT_EQ(report.at("target").at("wider_bits").as_string(), "4");
  const double bits = report.at("totals").at("bits_per_weight").as_double();
  EXPECT_DOUBLE_EQ(report.at("target").at("bits_per_weight").as_double(), bits);
  EXPECT_LE(bits, 3.9);
  EXPECT_GT(bits, 3.75);
  std::set<std::string> widths;
  for (const auto& layer : report.at("layers").as_array()) widths.emplace(layer.at("bits").as_string());
  EXPECT_EQ(widths, (std::set<std::string>{"3", "4"}));
  const auto config = json_of("q/config.json").at("quantization");
  EXPECT_EQ(config.at("bits").to_number<int>(), 4) << "that of most layers";
  EXPECT_EQ(config.at("model.layers.0.mlp.up_proj").at("bits").to_number<int>(), 3);
  EXPECT_FALSE(config.as_object().contains("model.layers.0.self_attn.o_proj"));
}

TEST_F(Target, OfSizeIsThatOfAllTensors) {
  std::vector<std::string> formats = {"hqq", "compressed-tensors", "gptq"};
  if (HALFQUAD_TEST_WITH_HDF5) formats.emplace_back("hdf5");
  for (const std::string& format : formats) {
    quantize(format, {"--target-size", "4200kB", "--format", format, "--max-shard-size", "100MB"});
    const auto report = json_of(format + "/halfquad_report.json");
    const auto target = report.at("target");
    EXPECT_EQ(target.at("target_bytes").to_number<std::uint64_t>(), 4'200'000U);
    EXPECT_LE(target.at("bytes").to_number<std::uint64_t>(), 4'200'000U);
    EXPECT_GT(target.at("bytes").to_number<std::uint64_t>(), 3'900'000U) << format;
    const std::string weights = format == "hdf5" ? "/model.h5" : "/model.safetensors";
    EXPECT_GT(std::filesystem::file_size(path(format + weights)), target.at("bytes").to_number<std::uint64_t>());
    EXPECT_EQ(run({"verify", path(format), "--source", path("m"), "--progress", "none"}).code, 0);
  }
}

TEST_F(Target, GgufTakesTheBestOfItsMixtures) {
  const Outcome outcome = quantize("q.gguf", {"--target-bpw", "4.9"});

  EXPECT_THAT(outcome.out, HasSubstr("--target-bpw 4.9: Q"));
  EXPECT_LE(json_of("q.gguf.halfquad_report.json").at("totals").at("bits_per_weight").as_double(), 4.9);
}

TEST_F(Target, IsWhatPlanShows) {
  const Outcome outcome = run({"plan", path("m"), "--target-bpw", "3.9", "--format", "mlx", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto plan = boost::json::parse(outcome.out);
  EXPECT_EQ(plan.at("target").at("bytes"), plan.at("output_bytes"));
  EXPECT_EQ(std::string(plan.at("target").at("command").as_string()),
            "halfquad quantize " + path("m") + " m-mlx-3.9bpw --format mlx --target-bpw 3.9");
  EXPECT_EQ(plan.at("formats").at(0).at("format").as_string(), "hqq");

  EXPECT_THAT(run({"plan", path("m"), "--target-size", "4MB"}).out,
              AllOf(HasSubstr("target"), HasSubstr("m-hqq-4MB"), HasSubstr("torchao")));
}

TEST_F(Target, LeavesNoLayerOutToBeSmaller) {
  const std::string odd = path("odd.safetensors");
  const std::vector<float> weights(64 * 256, 0.5F);
  test::put_safetensors(odd, {test::f32_tensor("model.layers.0.mlp.down_proj.weight", {64, 256}, weights),
                              test::f32_tensor("model.layers.0.mlp.up_proj.weight", {64, 192},
                                               {weights.begin(), weights.begin() + 64 * 192})});

  const Outcome outcome = run({"plan", odd, "--target-bpw", "4.3", "--format", "mlx"});

  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("--target-bpw 4.3: "), Not(HasSubstr("bit, groups of 128"))))
      << "192 columns have no such groups: 4 bit ones would leave half of the model as it is";
}

TEST_F(Target, RulesGoOverItAndAreCounted) {
  quantize("q", {"--target-bpw", "4.2", "--format", "mlx", "--rule", "layers\\.2\\.=bits:8", "--skip", "o_proj"});

  const auto report = json_of("q/halfquad_report.json");
  EXPECT_LE(report.at("totals").at("bits_per_weight").as_double(), 4.2);
  for (const auto& layer : report.at("layers").as_array()) {
    const std::string module(layer.at("module").as_string());
    EXPECT_EQ(module.find("o_proj"), module.npos);
    EXPECT_EQ(layer.at("bits").as_string() == "8", module.find("layers.2.") != module.npos) << module;
  }
}

TEST_F(Target, EmbeddingsTakeTheirBitsOfIt) {
  quantize("q", {"--target-bpw", "4.5", "--format", "mlx", "--embeddings", "6"});

  const auto report = json_of("q/halfquad_report.json");
  EXPECT_LE(report.at("totals").at("bits_per_weight").as_double(), 4.5);
  const auto config = json_of("q/config.json").at("quantization");
  EXPECT_EQ(config.at("model.embed_tokens").at("bits").to_number<int>(), 6);
  EXPECT_EQ(config.at("lm_head").at("bits").to_number<int>(), 6);
  quantize("plain.gguf", {"--bits", "4", "--embeddings", "8"});
  EXPECT_THAT(run({"inspect", path("plain.gguf")}).out, HasSubstr("8 bit"));
}

TEST_F(Target, CountsWhatIsKeptForItsNaN) {
  put_nan("model.layers.7.self_attn.q_proj.weight");
  for (const std::string format : {"hqq", "compressed-tensors"}) {  // of which the second wants k and v to go along
    const std::string skipped =
        format == "hqq" ? R"(layers\.7\.self_attn\.q_proj)" : R"(layers\.7\.self_attn\.[qkv]_proj)";
    const std::vector<std::string> target = {"--target-size", "4200kB", "--format", format};
    const auto with = [&](std::vector<std::string> more) {
      more.insert(more.begin(), target.begin(), target.end());
      return more;
    };
    quantize("kept-" + format, with({"--nonfinite", "keep-original"}));
    quantize("skipped-" + format, with({"--skip", skipped}));

    EXPECT_TRUE(bytes_of("kept-" + format + "/model.safetensors") ==
                bytes_of("skipped-" + format + "/model.safetensors"));
    const auto report = json_of("kept-" + format + "/halfquad_report.json");
    EXPECT_LE(report.at("target").at("bytes").to_number<std::uint64_t>(), 4'200'000U);
    EXPECT_EQ(report.at("target"), json_of("skipped-" + format + "/halfquad_report.json").at("target"));
    EXPECT_EQ(run({"verify", path("kept-" + format), "--progress", "none"}).code, 0);
  }
  quantize("zeroed", {"--target-size", "4200kB", "--nonfinite", "zero"});
  EXPECT_EQ(json_of("zeroed/halfquad_report.json").at("layers").as_array().size(), 56U);
}

TEST_F(Target, WhatCannotBeIsRefused) {
  refuse({"--target-size", "1MB"},
         "--target-size 976.6 KiB is out of reach: the smallest hqq output of this model takes ");
  refuse({"--target-size", "1MB"}, "with --bits 1 --group-size 128; ask for more or choose another --format");
  refuse({"--target-size", "1MB", "--format", "mlx"},
         "with --bits 2 --group-size 64; ask for more, pass --embeddings 6");
  refuse({"--target-bpw", "2", "--format", "awq"}, "awq output");
  refuse({"--target-bpw", "3", "--target-size", "1GB"}, "leave one out");
  refuse({"--target-bpw", "3", "--bits", "4"}, "--target-bpw chooses the bits: leave --bits, --type and --mixture out");
  refuse({"--target-size", "9MB", "--mixture", "Q4_K_M"}, "--target-size chooses the bits");
  refuse({"--target-bpw", "5", "--format", "gguf", "--group-size", "64"}, "leave --group-size out");
  refuse({"--target-bpw", "0"}, "--target-bpw");
  refuse({"--target-size", "much"}, "--target-size: \"much\" is not a size");
  refuse({"--embeddings", "8"}, "engines that load hqq want embedding and output head as they are");
  refuse({"--embeddings", "4", "--format", "mlx"}, "--embeddings");
  std::ofstream(path("r.json")) << R"({"bits": 4})";
  refuse({"--target-bpw", "3", "--recipe", path("r.json")}, "out of the recipe's defaults");
  const Outcome plan = fail({"plan", path("m"), "--fit", "8GiB", "--target-bpw", "4"});
  EXPECT_THAT(plan.err, HasSubstr("--fit is a target of its own"));
}

}  // namespace
}  // namespace halfquad
