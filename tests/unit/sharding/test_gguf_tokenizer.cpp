#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <boost/json/value_from.hpp>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "io/checkpoint.h"
#include "io/gguf.h"
#include "io/json.h"
#include "io/posix_file_system.h"
#include "sharding/formats/gguf_model.h"
#include "sharding/formats/gguf_tokenizer.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace halfquad {
namespace {

namespace json = boost::json;
using test::expect_error;

const std::filesystem::path kGolden(HALFQUAD_GOLDEN_DIR);
const std::filesystem::path kTiny = kGolden / "formats/tiny_llama";

/// A checkpoint's config.json and tokenizer.
struct Source {
  json::object config;
  GgufTokenizerFiles files;
  json::object keys;  ///< What the converter made of it.

  [[nodiscard]] GgufTokenizer make() const {
    return make_gguf_tokenizer(config, files, config.at("vocab_size").to_number<std::int64_t>());
  }
};

std::optional<std::string>& file_named(GgufTokenizerFiles& files, std::string_view name) {
  if (name == "tokenizer.json") return files.tokenizer_json;
  if (name == "tokenizer.model") return files.tokenizer_model;
  if (name == "tokenizer_config.json") return files.tokenizer_config;
  if (name == "added_tokens.json") return files.added_tokens;
  if (name == "generation_config.json") return files.generation_config;
  if (name == "chat_template.jinja") return files.chat_template_jinja;
  return files.chat_template_json;
}

Source golden(const std::string& name) {
  static const json::value root = parse_json(test::get_file(kGolden / "gguf/tokenizers.json"), "tokenizers.json");
  const json::object& entry = root.as_object().at(name).as_object();
  Source out;
  out.config = entry.at("config").as_object();
  out.keys = entry.at("keys").as_object();
  for (const auto& [file, text] : entry.at("files").as_object()) {
    const std::string content(text.as_string());
    file_named(out.files, file) = content == "spm.model" ? test::get_file(kGolden / "gguf/spm.model") : content;
  }
  return out;
}

/// The tiny model's tokenizer.json, parsed, so that a test can change it.
json::object tiny_tokenizer() {
  return parse_json(test::get_file(kTiny / "tokenizer.json"), "tokenizer.json").as_object();
}

Source tiny() {
  Source out;
  out.config = parse_json(test::get_file(kTiny / "config.json"), "config.json").as_object();
  out.files.tokenizer_json = test::get_file(kTiny / "tokenizer.json");
  out.files.tokenizer_config = test::get_file(kTiny / "tokenizer_config.json");
  return out;
}

const GgufValue* key(const GgufTokenizer& tokenizer, std::string_view name) {
  const auto found = std::ranges::find(tokenizer.keys, name, &GgufKey::name);
  return found == tokenizer.keys.end() ? nullptr : &found->value;
}

template <class T>
T value(const GgufTokenizer& tokenizer, std::string_view name) {
  const GgufValue* found = key(tokenizer, name);
  if (found == nullptr) throw std::runtime_error(fmt::format("no key {}", name));
  return std::get<T>(*found);
}

template <class T>
std::vector<T> list(const GgufTokenizer& tokenizer, std::string_view name) {
  return std::get<std::vector<T>>(value<GgufArray>(tokenizer, name));
}

json::value as_json(const GgufValue& value);

template <class Value>
json::value element_as_json(const Value& value) {
  if constexpr (std::is_same_v<Value, GgufArray>) {
    json::array out = {9, value.index()};
    std::visit(
        [&]<class List>(const List& list) {
          json::array elements;
          if constexpr (!std::is_same_v<List, std::monostate>) {
            for (const auto& entry : list)
              elements.push_back(json::value_from(static_cast<typename List::value_type>(entry)));
          }
          out.push_back(std::move(elements));
        },
        value);
    return out;
  } else {
    return json::value_from(value);
  }
}

json::value as_json(const GgufValue& value) {
  const bool array = std::holds_alternative<GgufArray>(value);
  json::value content = std::visit([](const auto& held) { return element_as_json(held); }, value);
  return array ? content : json::value(json::array{value.index(), content});
}

class GgufTokenizers : public ::testing::TestWithParam<const char*> {};

/// Two keys are ours alone: that the start token is not added, which llama.cpp would guess, and the unknown token that
/// tokenizer_config.json names, which the converter finds in tokenizer.json alone.
TEST_P(GgufTokenizers, HasTheKeysOfLlamaCppsConverter) {
  const Source wanted = golden(GetParam());

  const GgufTokenizer made = wanted.make();

  for (const auto& [name, content] : wanted.keys) {
    const GgufValue* ours = key(made, name);
    ASSERT_NE(ours, nullptr) << name;
    EXPECT_EQ(json::serialize(as_json(*ours)), json::serialize(content)) << name;
  }
  for (const GgufKey& made_key : made.keys) {
    const bool ours_alone = made_key.name == "tokenizer.ggml.unknown_token_id";
    EXPECT_TRUE(ours_alone || wanted.keys.contains(made_key.name)) << made_key.name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, GgufTokenizers,
                         ::testing::Values("bpe_template", "spm_added", "spm_gemma2", "spm_llama", "spm_phi3"),
                         [](const auto& info) { return std::string(info.param); });

/// A whole file that llama.cpp has loaded and run, made of the same checkpoint by another program.
TEST(GgufTokenizer, MakesTheTinyModelsFile) {
  const std::unique_ptr<FileSystem> fs = make_posix_file_system();
  const GgufHeader wanted = read_gguf_header(*fs->open_read(kTiny / "q4_1.gguf", ReadMode::kBuffered), "q4_1.gguf");
  const Checkpoint checkpoint(*fs, kTiny);
  std::vector<GgufSourceTensor> sources;
  for (const SourceTensor& tensor : checkpoint.tensors()) sources.push_back({tensor.name, tensor.shape});

  const GgufModel model = make_gguf_model(*checkpoint.config(), sources);
  const GgufTokenizer tokenizer = tiny().make();

  std::vector<GgufKey> keys = model.keys;
  std::ranges::copy(tokenizer.keys, std::back_inserter(keys));
  for (const GgufKey& want : wanted.keys) {
    if (want.name == "general.name" || want.name == "general.file_type" ||
        want.name == "general.quantization_version") {
      continue;
    }
    const auto ours = std::ranges::find(keys, want.name, &GgufKey::name);
    ASSERT_NE(ours, keys.end()) << want.name;
    EXPECT_TRUE(ours->value == want.value) << want.name;
  }
  // That program left the sizes of a head out, which are optional.
  EXPECT_EQ(keys.size(), wanted.keys.size() - 3 + 2);
  EXPECT_TRUE(tokenizer.warnings.empty());
  ASSERT_EQ(model.tensors.size(), wanted.tensors.size());
  for (const GgufTensor& want : wanted.tensors) {
    const auto ours = std::ranges::find(model.tensors, want.name, &GgufModelTensor::name);
    ASSERT_NE(ours, model.tensors.end()) << want.name;
    EXPECT_EQ(ours->dims, want.dims) << want.name;
    EXPECT_EQ(ours->kind == GgufTensorKind::kF32, want.type == 0) << want.name;
    EXPECT_EQ(ours->kind == GgufTensorKind::kLinear, want.type == 3) << want.name;
  }
}

TEST(GgufTokenizer, FillsUpToTheEmbeddingWithUnusedTokens) {
  Source padded = tiny();
  padded.config["vocab_size"] = 322;

  const GgufTokenizer made = padded.make();

  EXPECT_EQ(list<std::string>(made, "tokenizer.ggml.tokens").at(321), "[PAD321]");
  EXPECT_EQ(list<std::int32_t>(made, "tokenizer.ggml.token_type").at(321), 5);
  EXPECT_EQ(list<std::int32_t>(made, "tokenizer.ggml.token_type").at(319), 1);
}

TEST(GgufTokenizer, WritesAModelWithoutATokenizer) {
  Source none = tiny();
  none.files = {};
  Source qwen = none;
  qwen.config["architectures"] = json::array{"Qwen2ForCausalLM"};

  EXPECT_EQ(value<std::string>(none.make(), "tokenizer.ggml.model"), "none");
  EXPECT_EQ(none.make().keys.size(), 1U);
  EXPECT_EQ(none.make().warnings.size(), 1U);
  EXPECT_EQ(value<std::uint32_t>(qwen.make(), "qwen2.vocab_size"), 320U);
}

/// One step of a pre_tokenizer that divides text by a pattern.
json::object split(std::string_view pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

json::object bytes_only() { return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}; }

std::string pre_of(json::array steps, bool whole_tokens = false) {
  Source source = tiny();
  json::object tokenizer = tiny_tokenizer();
  tokenizer["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
  tokenizer["model"].as_object()["ignore_merges"] = whole_tokens;
  source.files.tokenizer_json = json::serialize(tokenizer);
  const GgufTokenizer made = source.make();
  const std::string pre = value<std::string>(made, "tokenizer.ggml.pre");
  EXPECT_EQ(made.warnings.size(), pre == "default" ? 1U : 0U);
  return pre;
}

/// The steps as the models' published tokenizer.json files have them.
TEST(GgufTokenizer, NamesThePreTokenizerByItsSteps) {
  const std::string words = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)";
  const std::string rest = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const json::object llama3 = split(words + R"(\p{N}{1,3})" + rest);
  json::object removed = llama3;
  removed["behavior"] = "Removed";
  removed["invert"] = true;
  json::object merged = llama3;
  merged["behavior"] = "MergedWithNext";

  EXPECT_EQ(pre_of({llama3, bytes_only()}, true), "llama-bpe");
  EXPECT_EQ(pre_of({llama3, bytes_only()}), "dbrx");
  EXPECT_EQ(pre_of({removed, bytes_only()}), "dbrx");
  EXPECT_EQ(pre_of({merged, bytes_only()}), "default");
  EXPECT_EQ(pre_of({split(words + R"(\p{N})" + rest), bytes_only()}), "qwen2");
  EXPECT_EQ(pre_of({split(words + R"(\p{N}x)" + rest), bytes_only()}), "default");
  EXPECT_EQ(pre_of({{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}}), "gpt-2");
  EXPECT_EQ(pre_of({{{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", true}}}), "default");
  EXPECT_EQ(
      pre_of({split(R"(\p{N}{1,3})"), split("[一-龥\u3040-ゟ゠-ヿ]+"),
              split("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]"
                    "+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"),
              bytes_only()}),
      "deepseek-v3");
  EXPECT_EQ(pre_of({split("[\r\n]"),
                    split(R"(\s?\p{L}+)"),
                    split(R"(\s?\p{P}+)"),
                    split("[一-龥]+"),
                    {{"type", "Digits"}, {"individual_digits", true}},
                    bytes_only()}),
            "deepseek-coder");
  EXPECT_EQ(pre_of({split("[\r\n]"),
                    split("\\s?[A-Za-zµÀ-ÖØ-ö]+"),
                    {{"type", "Digits"}, {"individual_digits", true}},
                    bytes_only()}),
            "deepseek-llm");
  EXPECT_EQ(pre_of({{{"type", "Whitespace"}}, bytes_only()}), "default");
  EXPECT_EQ(pre_of({}), "default");
}

TEST(GgufTokenizer, SpellsASpaceInsideOfAMerge) {
  Source source = tiny();
  json::object tokenizer = tiny_tokenizer();
  tokenizer["model"].as_object()["merges"] = json::array{json::array{"a b", "c"}, "d e"};
  source.files.tokenizer_json = json::serialize(tokenizer);

  EXPECT_EQ(list<std::string>(source.make(), "tokenizer.ggml.merges"), (std::vector<std::string>{"a\xC4\xA0"
                                                                                                 "b c",
                                                                                                 "d e"}));
}

/// Llama 2's kind of tokenizer.json, without its tokenizer.model: pieces get the rank of their merge.
TEST(GgufTokenizer, TakesScoresFromMergesWithoutASentencePieceModel) {
  Source source = tiny();
  source.config["vocab_size"] = 9;
  source.files.tokenizer_json = R"({"decoder":{"type":"Sequence"},"model":{"type":"BPE","byte_fallback":true,)"
                                R"("unk_token":"<unk>","vocab":{"<unk>":0,"<s>":1,"<0x0A>":2,"a":3,"b":4,"ab":5,)"
                                R"("aba":6},"merges":["a b","ab a"]},"added_tokens":[)"
                                R"({"id":0,"content":"<unk>","special":true},{"id":1,"content":"<s>","special":true},)"
                                R"({"id":7,"content":"<x▁y>","special":false}]})";
  source.files.tokenizer_config = R"({"bos_token":"<s>"})";

  const GgufTokenizer made = source.make();

  EXPECT_EQ(value<std::string>(made, "tokenizer.ggml.model"), "llama");
  EXPECT_EQ(value<std::string>(made, "tokenizer.ggml.pre"), "default");
  EXPECT_EQ(list<std::int32_t>(made, "tokenizer.ggml.token_type"),
            (std::vector<std::int32_t>{2, 3, 6, 1, 1, 1, 1, 4, 5}));
  EXPECT_EQ(list<float>(made, "tokenizer.ggml.scores"),
            (std::vector<float>{-2, -1000, -2, -2, -2, 0, -1, -1000, -10000}));
  EXPECT_EQ(list<std::string>(made, "tokenizer.ggml.tokens").at(7), "<x y>");
  EXPECT_EQ(value<std::uint32_t>(made, "tokenizer.ggml.bos_token_id"), 1U);
  EXPECT_EQ(key(made, "tokenizer.ggml.add_bos_token"), nullptr);
}

TEST(GgufTokenizer, FallsBackToTheGenerationConfigForIds) {
  Source source = tiny();
  for (const char* name : {"bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"}) source.config.erase(name);
  source.files.tokenizer_config = "{}";
  source.files.generation_config = R"({"eos_token_id":[2,0],"bos_token_id":1})";

  const GgufTokenizer made = source.make();

  EXPECT_EQ(value<std::uint32_t>(made, "tokenizer.ggml.eos_token_id"), 2U);
  EXPECT_EQ(value<std::uint32_t>(made, "tokenizer.ggml.bos_token_id"), 1U);
  EXPECT_EQ(key(made, "tokenizer.ggml.padding_token_id"), nullptr);
}

TEST(GgufTokenizer, LeavesOutAnIdBeyondTheTokens) {
  Source source = tiny();
  source.config["eos_token_id"] = 5000;
  source.files.tokenizer_config = "{}";

  const GgufTokenizer made = source.make();

  EXPECT_EQ(key(made, "tokenizer.ggml.eos_token_id"), nullptr);
  ASSERT_EQ(made.warnings.size(), 1U);
  EXPECT_NE(made.warnings[0].find("5000"), std::string::npos);
}

TEST(GgufTokenizer, FindsTheChatTemplateWhereverItIs) {
  Source source = tiny();
  source.files.chat_template_json = R"({"chat_template":"J"})";
  EXPECT_EQ(value<std::string>(source.make(), "tokenizer.chat_template"), "J");
  source.files.chat_template_jinja = "X";
  EXPECT_EQ(value<std::string>(source.make(), "tokenizer.chat_template"), "X");
  source.files.tokenizer_config =
      R"({"chat_template":[{"name":"tool use","template":"T"},{"name":"default","template":"D"}]})";
  EXPECT_EQ(value<std::string>(source.make(), "tokenizer.chat_template"), "D");
  EXPECT_EQ(value<std::string>(source.make(), "tokenizer.chat_template.tool_use"), "T");
  EXPECT_EQ(list<std::string>(source.make(), "tokenizer.chat_templates"), std::vector<std::string>{"tool_use"});
}

struct Defect {
  const char* name;
  const char* file;
  std::string text;
  const char* reason;
};

class MalformedTokenizer : public ::testing::TestWithParam<Defect> {};

TEST_P(MalformedTokenizer, IsRefusedWithItsOwnReason) {
  const Defect& defect = GetParam();
  Source source = tiny();
  file_named(source.files, defect.file) = defect.text;

  expect_error(ErrorCode::kBadInput, {defect.file, defect.reason}, [&] { static_cast<void>(source.make()); });
}

std::string with_model(const std::string& model) { return R"({"added_tokens":[],"model":)" + model + "}"; }
std::string with_added(const std::string& token) {
  return R"({"model":{"type":"BPE","vocab":{},"merges":[]},"added_tokens":[)" + token + "]}";
}

INSTANTIATE_TEST_SUITE_P(
    Json, MalformedTokenizer,
    ::testing::Values(
        Defect{"cut", "tokenizer.json", "{", "ends early"},
        Defect{"list", "tokenizer.json", "[]", "is not a JSON object"},
        Defect{"config_list", "tokenizer_config.json", "[]", "is not a JSON object"},
        Defect{"generation_cut", "generation_config.json", "{", "ends early"},
        Defect{"no_model", "tokenizer.json", R"({"a":1})", "no object \"model\""},
        Defect{"wordpiece", "tokenizer.json", with_model(R"({"type":"WordPiece"})"), "type \"WordPiece\"; only BPE"},
        Defect{"type_number", "tokenizer.json", with_model(R"({"type":1})"), "the model's type is not a string"},
        Defect{"no_vocab", "tokenizer.json", with_model(R"({"type":"BPE","merges":[]})"), "no object \"vocab\""},
        Defect{"no_merges", "tokenizer.json", with_model(R"({"type":"BPE","vocab":{}})"), "no list of merges"},
        Defect{"merge_single", "tokenizer.json", with_model(R"({"type":"BPE","vocab":{},"merges":["ab"]})"),
               "the merge \"ab\" that is no pair"},
        Defect{"merge_number", "tokenizer.json", with_model(R"({"type":"BPE","vocab":{},"merges":[7]})"),
               "a merge is not a string"},
        Defect{"merge_half", "tokenizer.json", with_model(R"({"type":"BPE","vocab":{},"merges":[["a",7]]})"),
               "half of a merge is not a string"},
        Defect{"id_text", "tokenizer.json", with_model(R"({"type":"BPE","vocab":{"a":"0"},"merges":[]})"),
               "token \"a\" has an id that is no whole number"},
        Defect{"id_negative", "tokenizer.json", with_model(R"({"type":"BPE","vocab":{"a":-1},"merges":[]})"),
               "token \"a\" has an id that is no whole number"},
        Defect{"id_large", "tokenizer.json", with_model(R"({"type":"BPE","vocab":{"a":320},"merges":[]})"),
               "token \"a\" has the id 320, but the embedding has 320 rows"},
        Defect{"byte_fallback", "tokenizer.json",
               with_model(R"({"type":"BPE","byte_fallback":true,"vocab":{},"merges":[]})"), "tokenizer.model"},
        Defect{"added_no_id", "tokenizer.json", with_added(R"({"content":"a"})"), "an added token without id"},
        Defect{"added_text", "tokenizer.json", with_added(R"({"id":1,"content":2})"), "an added token is not a string"},
        Defect{"added_large", "tokenizer.json", with_added(R"({"id":999,"content":"x"})"), "has the id 999"},
        Defect{"decoder_key", "tokenizer_config.json", R"({"added_tokens_decoder":{"1x":{"content":"a"}}})",
               "added token \"1x\""},
        Defect{"decoder_empty", "tokenizer_config.json", R"({"added_tokens_decoder":{"1":{}}})", "added token \"1\""},
        Defect{"template_cut", "chat_template.json", "{", "ends early"}),
    [](const auto& info) { return std::string(info.param.name); });

/// A message field of SentencePiece's protocol buffers; lengths below 128.
std::string field(int number, std::string_view bytes) {
  return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(bytes.size())} + std::string(bytes);
}
std::string piece(std::string_view text) { return field(1, field(1, text)); }

INSTANTIATE_TEST_SUITE_P(
    SentencePiece, MalformedTokenizer,
    ::testing::Values(
        Defect{"empty", "tokenizer.model", "", "there are no tokens (at byte 0)"},
        Defect{"field_cut", "tokenizer.model",
               "\x0a\x05"
               "ab",
               "a field takes 5 bytes but only 2 follow (at byte 2)"},
        Defect{"length_cut", "tokenizer.model", "\x0a", "a field takes 1 bytes but only 0 follow"},
        Defect{"length_huge", "tokenizer.model", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
               "18446744073709551615"},
        Defect{"varint_long", "tokenizer.model", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "more than 64 bits"},
        Defect{"varint_endless", "tokenizer.model", std::string(11, '\xff'), "more than 64 bits"},
        Defect{"field_zero", "tokenizer.model", std::string("\x02\x00", 2), "a field has the number 0"},
        Defect{"group", "tokenizer.model", "\x0b", "the unknown wire type 3"},
        Defect{"piece_number", "tokenizer.model", std::string("\x08\x01", 2), "the tokens are not messages"},
        Defect{"piece_empty", "tokenizer.model", field(1, ""), "a token has no text (at byte 2)"},
        Defect{"piece_utf8", "tokenizer.model", piece("\xff"), "is not UTF-8"},
        Defect{"piece_type", "tokenizer.model", field(1, field(1, "a") + "\x18\x07"), "a token has the type 7"},
        Defect{"piece_type_wire", "tokenizer.model", field(1, field(1, "a") + field(3, "x")), "of the wrong kind"},
        Defect{"piece_score", "tokenizer.model", field(1, field(1, "a") + std::string("\x15\0\0\xc0\x7f", 5)),
               "no finite number"},
        Defect{"field_in_piece", "tokenizer.model",
               field(1,
                     "\x0a\x09"
                     "a"),
               "a field takes 9 bytes but only 1"}),
    [](const auto& info) { return std::string("model_") + info.param.name; });

/// Only Phi-3's converter looks there.
TEST(GgufTokenizer, LeavesTokenizerJsonsAdditionsToASentencePieceModelAside) {
  Source source = golden("spm_llama");
  source.files.tokenizer_json = with_added(R"({"id":355,"content":"other","special":true})");

  EXPECT_EQ(list<std::string>(source.make(), "tokenizer.ggml.tokens").at(355), "[PAD355]");
}

TEST(GgufTokenizer, RefusesAPieceBeyondTheEmbedding) {
  Source source = golden("spm_llama");
  source.config["vocab_size"] = 339;

  expect_error(ErrorCode::kBadInput, {"tokenizer.model", "339 rows"}, [&] { static_cast<void>(source.make()); });
}

}  // namespace
}  // namespace halfquad
