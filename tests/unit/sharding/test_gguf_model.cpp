#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "io/json.h"
#include "sharding/formats/gguf_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

namespace json = boost::json;
using test::expect_error;

/// One family's model of the golden file.
struct Family {
  json::object config;
  std::vector<GgufSourceTensor> sources;
  json::object keys;
  std::map<std::string, std::vector<std::int64_t>> tensors;

  [[nodiscard]] GgufModel make() const { return make_gguf_model(config, sources); }
  /// Removes the sources whose names hold `part`; how many there were.
  std::size_t remove(std::string_view part) {
    return std::erase_if(sources, [&](const GgufSourceTensor& s) { return s.name.find(part) != std::string::npos; });
  }
};

std::vector<std::int64_t> integers(const json::value& value) {
  std::vector<std::int64_t> out;
  for (const json::value& entry : value.as_array()) out.push_back(entry.to_number<std::int64_t>());
  return out;
}

const json::object& golden() {
  static const json::value root =
      parse_json(test::get_file(std::filesystem::path(HALFQUAD_GOLDEN_DIR) / "gguf/families.json"), "families.json");
  return root.as_object();
}

Family family(const std::string& name) {
  const json::object& entry = golden().at(name).as_object();
  Family out;
  out.config = entry.at("config").as_object();
  out.keys = entry.at("keys").as_object();
  for (const json::value& source : entry.at("sources").as_array()) {
    out.sources.push_back({std::string(source.at(0).as_string()), integers(source.at(1))});
  }
  for (const json::value& tensor : entry.at("tensors").as_array()) {
    out.tensors.emplace(std::string(tensor.at(0).as_string()), integers(tensor.at(1)));
  }
  return out;
}

const GgufModelTensor& tensor(const GgufModel& model, const std::string& name) {
  const auto found = std::ranges::find(model.tensors, name, &GgufModelTensor::name);
  if (found == model.tensors.end()) throw std::runtime_error("no tensor " + name);
  return *found;
}

const GgufValue* key(const GgufModel& model, const std::string& name) {
  const auto found = std::ranges::find(model.keys, name, &GgufKey::name);
  return found == model.keys.end() ? nullptr : &found->value;
}

/// Whether a value is the golden file's [type, value].
bool same(const GgufValue& value, const json::value& wanted) {
  if (std::cmp_not_equal(value.index(), wanted.at(0).to_number<std::int64_t>())) return false;
  const json::value& content = wanted.at(1);
  if (const auto* text = std::get_if<std::string>(&value)) return *text == std::string(content.as_string());
  if (const auto* flag = std::get_if<bool>(&value)) return *flag == content.as_bool();
  if (const auto* whole = std::get_if<std::uint32_t>(&value)) return *whole == content.to_number<std::uint32_t>();
  const auto* number = std::get_if<float>(&value);
  return number != nullptr && std::abs(*number - content.to_number<double>()) <= 2e-7 * std::abs(*number);
}

class GgufFamilies : public ::testing::TestWithParam<std::string> {};

/// DeepSeek-V3 configs that leave the scoring function out get a key all the same: without it llama.cpp takes softmax.
TEST_P(GgufFamilies, HasTheKeysOfLlamaCppsConverter) {
  const Family wanted = family(GetParam());

  const GgufModel model = wanted.make();

  for (const auto& [name, value] : wanted.keys) {
    if (name == "general.file_type") continue;
    const GgufValue* ours = key(model, std::string(name));
    ASSERT_NE(ours, nullptr) << name;
    EXPECT_TRUE(same(*ours, value)) << name;
  }
  const bool gating = GetParam() == "deepseek_v3";
  EXPECT_EQ(model.keys.size(), wanted.keys.size() + (gating ? 1 : 0));
  EXPECT_EQ(key(model, "deepseek2.expert_gating_func") != nullptr, gating);
}

TEST_P(GgufFamilies, HasTheTensorsOfLlamaCppsConverterAndLosesNone) {
  const Family wanted = family(GetParam());

  const GgufModel model = wanted.make();

  std::map<std::string, std::vector<std::int64_t>> tensors;
  std::vector<int> uses(wanted.sources.size());
  for (const GgufModelTensor& made : model.tensors) {
    tensors.emplace(made.name, made.dims);
    for (const std::size_t source : made.sources) ++uses.at(source);
    EXPECT_EQ(made.sources.empty(), !made.values.empty()) << made.name;
  }
  EXPECT_EQ(tensors, wanted.tensors);
  EXPECT_TRUE(model.dropped.empty());
  for (std::size_t i = 0; i < uses.size(); ++i) {
    const bool split = wanted.sources[i].name.ends_with("kv_b_proj.weight");
    EXPECT_EQ(uses[i], split ? 2 : 1) << wanted.sources[i].name;
  }
}

/// The file would not load if any tensor but the output head were missing.
TEST_P(GgufFamilies, WantsEveryTensor) {
  const Family whole = family(GetParam());

  for (std::size_t i = 0; i < whole.sources.size(); ++i) {
    const std::string name = whole.sources[i].name;
    if (name == "lm_head.weight" || name.ends_with(".bias") || name.ends_with("correction_bias")) continue;
    Family lacking = whole;
    lacking.sources.erase(lacking.sources.begin() + static_cast<std::ptrdiff_t>(i));
    expect_error(ErrorCode::kBadInput, {"the checkpoint"}, [&] { static_cast<void>(lacking.make()); });
  }
}

TEST_P(GgufFamilies, RefusesATensorThatItDoesNotKnow) {
  for (const char* name : {"model.layers.0.self_attn.sinks", "model.layers.0.mlp.gate_proj.scale", "head.weight",
                           "model.layers.0.input_layernorm.bias", "model.layers.x.input_layernorm.weight",
                           "model.layers.0.self_attn.o_proj"}) {
    Family strange = family(GetParam());
    strange.sources.push_back({name, {32}});
    expect_error(ErrorCode::kBadInput, {name, "has no name in a GGUF file"},
                 [&] { static_cast<void>(strange.make()); });
  }
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const auto& [name, value] : golden()) names.emplace_back(name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(All, GgufFamilies, ::testing::ValuesIn(family_names()),
                         [](const auto& info) { return info.param; });

TEST(GgufModel, InterleavesTheRowsOfQueryAndKeyHeads) {
  const GgufModel model = family("llama3").make();  // 4 query heads, 2 key heads, 8 rows each
  const GgufRows& query = tensor(model, "blk.0.attn_q.weight").rows;
  const GgufRows& bias = tensor(model, "blk.1.attn_k.bias").rows;

  const std::vector<std::int64_t> head = {0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13};
  for (std::size_t row = 0; row < head.size(); ++row) {
    EXPECT_EQ(query.source_row(static_cast<std::int64_t>(row)), head[row]);
    EXPECT_EQ(bias.source_row(static_cast<std::int64_t>(row)), head[row]);
  }
  EXPECT_EQ(tensor(model, "blk.0.attn_v.weight").rows, GgufRows{});
  EXPECT_EQ(tensor(family("qwen2").make(), "blk.0.attn_q.weight").rows, GgufRows{});
}

TEST(GgufModel, KindsTellWhatMayBeQuantized) {
  const GgufModel model = family("deepseek_v3").make();
  std::map<GgufTensorKind, std::vector<std::string>> kinds;
  for (const GgufModelTensor& made : model.tensors) {
    if (made.name.find("blk.0.") != 0) kinds[made.kind].push_back(made.name);
  }
  for (auto& [kind, names] : kinds) std::ranges::sort(names);

  EXPECT_EQ(kinds[GgufTensorKind::kKeep],
            (std::vector<std::string>{"blk.1.attn_k_b.weight", "output.weight", "token_embd.weight"}));
  EXPECT_EQ(kinds[GgufTensorKind::kF32],
            (std::vector<std::string>{"blk.1.attn_kv_a_norm.weight", "blk.1.attn_norm.weight",
                                      "blk.1.attn_q_a_norm.weight", "blk.1.exp_probs_b.bias",
                                      "blk.1.ffn_gate_inp.weight", "blk.1.ffn_norm.weight", "output_norm.weight"}));
  EXPECT_EQ(kinds[GgufTensorKind::kLinear].size(), 11U);
}

TEST(GgufModel, SplitsTheKeysAndValuesOfLatentAttention) {
  const GgufModel model = family("deepseek_v2").make();  // 4 heads of 12 keys and 10 values, rank 16
  const GgufModelTensor& keys = tensor(model, "blk.0.attn_k_b.weight");
  const GgufModelTensor& values = tensor(model, "blk.0.attn_v_b.weight");

  EXPECT_EQ(keys.dims, (std::vector<std::int64_t>{12, 16, 4}));
  EXPECT_EQ(keys.rows, (GgufRows{GgufRows::Order::kTransposedSlice, 22, 0, 12}));
  EXPECT_EQ(values.dims, (std::vector<std::int64_t>{16, 10, 4}));
  EXPECT_EQ(values.rows.source_row(0), 12);
  EXPECT_EQ(values.rows.source_row(9), 21);
  EXPECT_EQ(values.rows.source_row(10), 34);
  EXPECT_EQ(keys.sources, values.sources);
}

TEST(GgufModel, StacksExpertsByTheirNumbersInWhateverOrderTheyCome) {
  Family mixed = family("qwen3moe");
  std::ranges::reverse(mixed.sources);

  const GgufModel model = mixed.make();

  const GgufModelTensor& stack = tensor(model, "blk.1.ffn_down_exps.weight");
  ASSERT_EQ(stack.sources.size(), 4U);
  for (std::size_t expert = 0; expert < 4; ++expert) {
    EXPECT_EQ(mixed.sources[stack.sources[expert]].name,
              fmt::format("model.layers.1.mlp.experts.{}.down_proj.weight", expert));
  }
}

TEST(GgufModel, AddsOneToGemmasNormsAlone) {
  for (const char* name : {"gemma2", "gemma3"}) {
    for (const GgufModelTensor& made : family(name).make().tensors) {
      EXPECT_EQ(made.add, made.name.ends_with("norm.weight") ? 1.0F : 0.0F) << made.name;
    }
  }
  EXPECT_EQ(tensor(family("llama3").make(), "output_norm.weight").add, 0.0F);
}

/// Values that llama.cpp's converter wrote for this model.
TEST(GgufModel, WritesTheFactorsOfStretchedRotaryEmbeddings) {
  const GgufModel llama = family("llama3").make();
  const GgufModel phi = family("phi3").make();

  const std::vector<float> factors = tensor(llama, "rope_freqs.weight").values;
  ASSERT_EQ(factors.size(), 4U);
  EXPECT_FLOAT_EQ(factors[0], 1.0F);
  EXPECT_FLOAT_EQ(factors[1], 32.0F);
  EXPECT_FLOAT_EQ(factors[3], 32.0F);
  EXPECT_EQ(tensor(phi, "rope_factors_long.weight").values, (std::vector<float>{1.0F, 1.5F, 2.0F, 4.0F}));
  EXPECT_EQ(tensor(phi, "rope_factors_short.weight").values, (std::vector<float>{1.0F, 1.0F, 1.1F, 1.2F}));
}

/// Llama 3.2's settings: of 64 frequencies the high ones stay, the low ones are divided by the factor, and a few lie
/// between.
TEST(GgufModel, SmoothsTheFactorsBetweenTheTwoWavelengths) {
  Family llama = family("llama3");
  llama.config["head_dim"] = 128;
  llama.config["rope_scaling"] = {{"rope_type", "llama3"},
                                  {"factor", 32.0},
                                  {"low_freq_factor", 1.0},
                                  {"high_freq_factor", 4.0},
                                  {"original_max_position_embeddings", 8192}};

  const std::vector<float> factors = tensor(llama.make(), "rope_freqs.weight").values;

  ASSERT_EQ(factors.size(), 64U);
  EXPECT_EQ(factors[28], 1.0F);
  EXPECT_GT(factors[30], 1.0F);
  EXPECT_LT(factors[30], factors[31]);
  EXPECT_LT(factors[34], 32.0F);
  EXPECT_EQ(factors[36], 32.0F);
  const double wavelength = 2.0 * 3.14159265358979 * std::pow(500000.0, 62.0 / 128.0);
  const double smooth = (8192.0 / wavelength - 1.0) / 3.0;
  EXPECT_NEAR(factors[31], 1.0 / ((1.0 - smooth) / 32.0 + smooth), 1e-5);
}

TEST(GgufModel, TellsWhatItLeavesOut) {
  Family deepseek = family("deepseek_v3");
  deepseek.sources.push_back({"model.layers.2.eh_proj.weight", {32, 64}});
  deepseek.sources.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {4}});
  Family gemma = family("gemma3");
  gemma.sources.push_back({"vision_tower.vision_model.embeddings.patch_embedding.weight", {8, 3, 2, 2}});

  const GgufModel model = deepseek.make();

  ASSERT_EQ(model.dropped.size(), 2U);
  EXPECT_EQ(model.dropped[0].source, deepseek.sources.size() - 2);
  EXPECT_NE(model.dropped[0].reason.find("multi-token prediction"), std::string::npos);
  EXPECT_NE(model.dropped[1].reason.find("rotary"), std::string::npos);
  EXPECT_NE(gemma.make().dropped.at(0).reason.find("vision"), std::string::npos);
  gemma.config["architectures"] = json::array{"Gemma2ForCausalLM"};
  expect_error(ErrorCode::kBadInput, {"has no name in a GGUF file"}, [&] { static_cast<void>(gemma.make()); });
}

TEST(GgufModel, ReadsATextModelBelowAVisionModel) {
  const Family plain = family("gemma3");
  for (const char* prefix : {"language_model.", "model.language_model."}) {
    Family nested;
    nested.config["architectures"] = json::array{"Gemma3ForConditionalGeneration"};
    nested.config["text_config"] = plain.config;
    for (GgufSourceTensor source : plain.sources) {
      const bool inside = source.name.starts_with("model.");
      source.name = inside && std::string_view(prefix) == "model.language_model."
                        ? prefix + source.name.substr(std::string_view("model.").size())
                        : "language_model." + source.name;
      nested.sources.push_back(source);
    }

    const GgufModel model = nested.make();

    EXPECT_EQ(model.tensors.size(), plain.make().tensors.size());
    EXPECT_EQ(model.keys.size(), plain.make().keys.size());
  }
}

TEST(GgufModel, CutsEmbeddingRowsOfNoToken) {
  Family gemma = family("gemma3");
  gemma.config["vocab_size"] = 300;
  Family llama = family("llama3");
  llama.config["vocab_size"] = 300;

  const GgufModel model = gemma.make();

  EXPECT_EQ(model.vocabulary, 300);
  EXPECT_EQ(tensor(model, "token_embd.weight").dims, (std::vector<std::int64_t>{32, 300}));
  EXPECT_EQ(tensor(model, "token_embd.weight").rows.source_row(299), 299);
  expect_error(ErrorCode::kBadInput, {"has 320 rows", "vocab_size of 300"}, [&] { static_cast<void>(llama.make()); });
}

TEST(GgufModel, NamesAnUnsupportedClassAndTheSupportedOnes) {
  Family model = family("llama3");
  model.config["architectures"] = json::array{"OlmoForCausalLM"};

  expect_error(ErrorCode::kBadInput, {"\"OlmoForCausalLM\"", "LlamaForCausalLM", "DeepseekV3ForCausalLM"},
               [&] { static_cast<void>(model.make()); });
}

TEST(GgufModel, RefusesContradictions) {
  const auto expect_refused = [](const char* name, std::initializer_list<std::string_view> parts, const auto& change) {
    Family changed = family(name);
    change(changed);
    expect_error(ErrorCode::kBadInput, parts, [&] { static_cast<void>(changed.make()); });
  };

  expect_refused("llama3", {"\"hidden_size\"", "is missing"}, [](Family& f) { f.config.erase("hidden_size"); });
  expect_refused("llama3", {"\"hidden_size\"", "whole number"}, [](Family& f) { f.config["hidden_size"] = -1; });
  expect_refused("llama3", {"\"hidden_size\"", "whole number"}, [](Family& f) { f.config["hidden_size"] = "32"; });
  expect_refused("llama3", {"\"rms_norm_eps\"", "not a number"}, [](Family& f) { f.config["rms_norm_eps"] = "x"; });
  expect_refused("llama3", {"llama.context_length", "fit"},
                 [](Family& f) { f.config["max_position_embeddings"] = std::int64_t{1} << 32U; });
  expect_refused("llama3", {"5 heads"}, [](Family& f) { f.config["num_attention_heads"] = 5; });
  expect_refused("llama3", {"\"text_config\"", "object"}, [](Family& f) { f.config["text_config"] = 1; });
  expect_refused("llama3", {"\"token_embd.weight\" a second time"}, [](Family& f) {
    f.sources.push_back({"model.embed_tokens.weight", {320, 32}});
  });
  expect_refused("llama3", {"instead of 1 dimension"}, [](Family& f) {
    f.remove("model.norm.weight");
    f.sources.push_back({"model.norm.weight", {32, 1}});
  });
  expect_refused("qwen3moe", {"beyond the 3"}, [](Family& f) { f.config["num_experts"] = 3; });
  expect_refused("qwen3moe", {"would lack expert 4 of 5"}, [](Family& f) { f.config["num_experts"] = 5; });
  expect_refused("qwen3moe", {"unlike the layer's other experts"}, [](Family& f) {
    f.remove("layers.0.mlp.experts.2.up_proj");
    f.sources.push_back({"model.layers.0.mlp.experts.2.up_proj.weight", {31, 32}});
  });
  expect_refused("deepseek_v3", {"88 rows instead of 92"}, [](Family& f) { f.config["v_head_dim"] = 11; });
  expect_refused("deepseek_v3", {"scoring function \"tanh\""}, [](Family& f) { f.config["scoring_func"] = "tanh"; });
  expect_refused("phi3", {"need 4 long and short factors"},
                 [](Family& f) { f.config["rope_scaling"].as_object()["short_factor"] = json::array{1.0}; });
}

}  // namespace
}  // namespace halfquad
