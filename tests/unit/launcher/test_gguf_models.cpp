#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "io/gguf_files.h"
#include "kernels/ggml_blocks.h"
#include "launcher/exit_code.h"
#include "tests/support/gguf_file.h"
#include "tests/unit/launcher/cli_fixture.h"

namespace halfquad {
namespace {

using test::gguf_file;
using test::GgufFileTensor;
using test::Outcome;

/// Numbers of some elements of a type: F32 about the size of weights, other types as they come.
std::string numbers(GgmlTypeId type, std::int64_t elements) {
  std::mt19937 random(static_cast<unsigned>(elements));
  std::string bytes;
  for (std::int64_t i = 0; i < elements; ++i) {
    if (type == GgmlTypeId::kF32) {
      const float value = std::ldexp(static_cast<float>(random() % 2001) - 1000.0F, -15);
      bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    } else if (type == GgmlTypeId::kF16) {
      const auto value = static_cast<std::uint16_t>(random() & 0xBFFFU);  // finite
      bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    } else if (i % 32 == 0) {  // Q8_0
      const std::uint16_t d = 0x2000U + static_cast<std::uint16_t>(random() % 0x400);
      bytes.append(reinterpret_cast<const char*>(&d), sizeof d);
      for (int j = 0; j < 32; ++j) bytes += static_cast<char>(random());
    }
  }
  return bytes;
}

GgufFileTensor tensor(std::string name, std::vector<std::int64_t> dims, GgmlTypeId type) {
  std::int64_t elements = 1;
  for (const std::int64_t dim : dims) elements *= dim;
  return {std::move(name), std::move(dims), type, numbers(type, elements)};
}

/// A model that no architecture has, with experts.
std::vector<GgufFileTensor> some_tensors() {
  return {tensor("token_embd.weight", {64, 40}, GgmlTypeId::kQ8_0),
          tensor("blk.0.attn_norm.weight", {64}, GgmlTypeId::kF32),
          tensor("blk.0.attn_novel.weight", {64, 96}, GgmlTypeId::kF16),
          tensor("blk.0.ffn_gate_inp.weight", {64, 4}, GgmlTypeId::kF32),
          tensor("blk.0.ffn_up_exps.weight", {64, 32, 4}, GgmlTypeId::kF32),
          tensor("blk.0.ffn_down_exps.weight", {32, 64, 4}, GgmlTypeId::kQ8_0),
          tensor("blk.1.attn_novel.weight", {64, 96}, GgmlTypeId::kQ8_0),
          tensor("output.weight", {64, 40}, GgmlTypeId::kF16)};
}

std::vector<GgufKey> some_keys() {
  return {{"general.architecture", std::string("novel")},
          {"general.name", std::string("A name")},
          {"novel.block_count", std::uint32_t{2}},
          {"tokenizer.ggml.tokens", GgufArray(std::vector<std::string>{"a", "", "\xC3\xA9"})}};
}

class GgufModelsTest : public test::CliTest {
 protected:
  void put(const std::string& name, const std::vector<GgufFileTensor>& tensors,
           const std::vector<GgufKey>& keys = some_keys()) {
    test::put_file(path(name), gguf_file(keys, tensors));
  }

  void quantize(const std::string& from, const std::string& to, const std::vector<std::string>& more = {}) {
    std::vector<std::string> command = {"quantize", path(from),    path(to), "--threads",    "2", "--progress",
                                        "none",     "--log-level", "off",    "--group-size", "32"};
    command.insert(command.end(), more.begin(), more.end());
    const Outcome outcome = run(command);
    EXPECT_EQ(outcome.code, kExitDone) << outcome.err;
  }

  /// The bytes of every tensor of a model, which has any number of files, behind its type.
  std::map<std::string, std::string> tensors_of(const std::string& name) {
    std::map<std::string, std::string> bytes;
    const GgufFiles files = open_gguf_files(*files_, find_gguf_model(*files_, path(name)).value());
    const GgufHeader model = files.model();
    const std::vector<GgufFiles::Place> places = files.places();
    for (std::size_t i = 0; i < places.size(); ++i) {
      const std::string file = test::get_file(files.files[static_cast<std::size_t>(places[i].file)].path);
      bytes[model.tensors[i].name] = std::string(find_ggml_type(model.tensors[i].type)->name) + " " +
                                     file.substr(places[i].offset, model.tensors[i].bytes());
    }
    return bytes;
  }

  std::vector<std::pair<std::string, GgufValue>> keys_of(const std::string& name) {
    std::vector<std::pair<std::string, GgufValue>> keys;
    for (const GgufKey& key : open_gguf_files(*files_, path(name)).model().keys) keys.emplace_back(key.name, key.value);
    return keys;
  }
};

TEST_F(GgufModelsTest, WhatIsNotQuantizedIsKeptByteForByte) {
  put("m.gguf", some_tensors());
  quantize("m.gguf", "out.gguf", {"--skip", "ffn_down_exps"});

  const std::map<std::string, std::string> before = tensors_of("m.gguf");
  int kept = 0;
  for (const auto& [name, bytes] : tensors_of("out.gguf")) {
    if (bytes.starts_with("Q4_1 ")) continue;
    EXPECT_TRUE(bytes == before.at(name)) << name;
    ++kept;
  }
  EXPECT_EQ(kept, 5);
  EXPECT_EQ(run({"verify", path("out.gguf"), "--progress", "none"}).code, kExitDone);
  const Outcome verified = run({"verify", path("out.gguf"), "--source", path("m.gguf"), "--progress", "none"});
  EXPECT_EQ(verified.code, kExitDone) << verified.out << verified.err;
  EXPECT_EQ(run({"inspect", path("out.gguf")}).code, kExitDone);
}

TEST_F(GgufModelsTest, Q8SourcesGiveWhatTheirWeightsInF32Give) {
  std::vector<GgufFileTensor> tensors = some_tensors();
  put("q8.gguf", tensors);
  for (GgufFileTensor& tensor : tensors) {
    if (tensor.type != GgmlTypeId::kQ8_0) continue;
    std::vector<float> weights(tensor.data.size() / 34 * 32);
    dequantize_q8_0(reinterpret_cast<const std::byte*>(tensor.data.data()), static_cast<std::int64_t>(weights.size()),
                    weights.data());
    tensor.type = GgmlTypeId::kF32;
    tensor.data.assign(reinterpret_cast<const char*>(weights.data()), weights.size() * sizeof(float));
  }
  put("f32.gguf", tensors);
  quantize("q8.gguf", "from-q8.gguf");
  quantize("f32.gguf", "from-f32.gguf");

  std::map<std::string, std::string> from_q8 = tensors_of("from-q8.gguf");
  std::map<std::string, std::string> from_f32 = tensors_of("from-f32.gguf");

  EXPECT_TRUE(from_q8.at("blk.0.ffn_down_exps.weight").starts_with("Q4_1 "));
  from_q8.erase("token_embd.weight");  // kept
  from_f32.erase("token_embd.weight");
  EXPECT_TRUE(from_q8 == from_f32);
}

TEST_F(GgufModelsTest, ANaNInABlockIsFoundAndTheTensorCanBeKept) {
  std::vector<GgufFileTensor> tensors = some_tensors();
  const std::string name = "blk.1.attn_novel.weight";
  GgufFileTensor& broken = tensors[6];
  ASSERT_EQ(broken.name, name);
  broken.data.replace(34 * 3, 2, "\x01\x7E");  // the scale of the first block of row 1
  put("m.gguf", tensors);

  const Outcome refused = fail({"quantize", path("m.gguf"), path("out.gguf"), "--group-size", "32"});
  EXPECT_EQ(refused.code, kExitBadInput);
  EXPECT_NE(refused.err.find("\"" + name + "\" holds a NaN or infinity at [1, 32]"), std::string::npos) << refused.err;

  quantize("m.gguf", "out.gguf", {"--nonfinite", "keep-original"});
  EXPECT_TRUE(tensors_of("out.gguf").at(name) == tensors_of("m.gguf").at(name));
}

TEST_F(GgufModelsTest, PartsGiveWhatOneFileGives) {
  const std::vector<GgufFileTensor> tensors = some_tensors();
  put("m.gguf", tensors);
  const auto part = [&](std::uint16_t number, std::vector<GgufKey> keys) {
    keys.push_back({"split.no", number});
    keys.push_back({"split.count", std::uint16_t{2}});
    keys.push_back({"split.tensors.count", static_cast<std::int32_t>(tensors.size())});
    return keys;
  };
  put("p-00001-of-00002.gguf", {tensors.begin(), tensors.begin() + 3}, part(0, some_keys()));
  put("p-00002-of-00002.gguf", {tensors.begin() + 3, tensors.end()}, part(1, {}));
  quantize("m.gguf", "whole.gguf");
  quantize("p-00002-of-00002.gguf", "parts.gguf");
  quantize("p-00001-of-00002.gguf", "split", {"--format", "gguf", "--max-shard-size", "20KB"});

  EXPECT_TRUE(test::get_file(path("whole.gguf")) == test::get_file(path("parts.gguf")));
  EXPECT_FALSE(std::filesystem::exists(path("split/model.gguf")));
  EXPECT_TRUE(tensors_of("whole.gguf") == tensors_of("split"));
  const Outcome verified = run({"verify", path("split"), "--progress", "none"});
  EXPECT_EQ(verified.code, kExitDone);
  EXPECT_NE(verified.out.find("8 checksums compared"), std::string::npos) << verified.out;
}

// The detour over an unquantized file changes nothing, experts included.
TEST_F(GgufModelsTest, AFileOfTheModelGivesWhatTheModelGives) {
  for (const std::string preset : {"tiny", "tiny-qwen3-moe"}) {
    ASSERT_EQ(run({"synth", path(preset), "--preset", preset, "--progress", "none"}).code, kExitDone);
    const std::string via = preset + "-plain.gguf", again = preset + "-again.gguf", direct = preset + "-direct.gguf";
    // Something has to be quantized.
    quantize(preset, via, {"--rule", ".*=keep:on", "--rule", "layers.0.self_attn.o_proj=bits:8"});
    quantize(via, again, {"--importance", "weights"});  // a GGUF model's inputs are not measured
    quantize(preset, direct, {"--importance", "weights"});

    EXPECT_TRUE(keys_of(again) == keys_of(direct));
    std::map<std::string, std::string> wanted = tensors_of(direct);
    for (const auto& [name, bytes] : tensors_of(again)) {
      EXPECT_EQ(bytes == wanted.at(name), name != "blk.0.attn_output.weight") << name;
      wanted.erase(name);
    }
    EXPECT_TRUE(wanted.empty());
  }
}

TEST_F(GgufModelsTest, MixturesOfTypesAndPlansTakeThemToo) {
  std::vector<GgufFileTensor> tensors = {tensor("token_embd.weight", {256, 40}, GgmlTypeId::kF16),
                                         tensor("blk.0.attn_v.weight", {256, 64}, GgmlTypeId::kF32),
                                         tensor("blk.0.ffn_down.weight", {256, 64}, GgmlTypeId::kQ8_0)};
  put("m.gguf", tensors);

  const Outcome plan = run({"plan", path("m.gguf"), "--format", "gguf", "--bits", "4"});
  const Outcome mixed = run(
      {"quantize", path("m.gguf"), path("out.gguf"), "--mixture", "Q4_K_M", "--threads", "1", "--progress", "none"});

  EXPECT_EQ(plan.code, kExitDone) << plan.err;
  EXPECT_NE(plan.out.find("embedding"), std::string::npos) << plan.out;
  EXPECT_EQ(mixed.code, kExitDone) << mixed.err;
  for (const auto& [name, bytes] : tensors_of("out.gguf")) EXPECT_NE(bytes.find("_K "), std::string::npos) << name;
}

TEST_F(GgufModelsTest, OtherFormatsAreRefused) {
  put("m.gguf", some_tensors());
  for (const std::string format : {"hqq", "mlx", "compressed-tensors", "torchao", "awq", "gptq"}) {
    const Outcome outcome = fail({"quantize", path("m.gguf"), path("out"), "--format", format, "--progress", "none"});

    EXPECT_EQ(outcome.code, kExitUsage);
    EXPECT_NE(outcome.err.find("m.gguf\" is a GGUF model"), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find(format + " outputs"), std::string::npos) << outcome.err;
    EXPECT_FALSE(std::filesystem::exists(path("out")));
  }
}

}  // namespace
}  // namespace halfquad
