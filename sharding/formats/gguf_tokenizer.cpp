#include "sharding/formats/gguf_tokenizer.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "sharding/formats/gguf_config.h"
#include "sharding/formats/gguf_names.h"
#include "sharding/formats/gguf_vocabulary.h"

namespace halfquad {
namespace {

namespace json = boost::json;

/// Which of a checkpoint's files the family's converter prefers, and how it reads them.
GgufVocabulary vocabulary_of(GgufFamily family, const GgufTokenizerFiles& files, const GgufTokenizerJson& parsed,
                             std::int64_t size) {
  const json::value* kind = parsed.config.if_contains("tokenizer_class");
  const bool gpt2_class = kind != nullptr && kind->is_string() && kind->get_string() == "GPT2Tokenizer";
  const bool byte_level = family == GgufFamily::kDeepseek2 || (family == GgufFamily::kPhi3 && gpt2_class);
  if (files.tokenizer_model && !byte_level) {
    return gguf_sentencepiece_vocabulary(family, *files.tokenizer_model, parsed, size);
  }
  if (imitates_sentencepiece(parsed)) return gguf_imitated_vocabulary(parsed, size);
  return gguf_bpe_vocabulary(parsed, size);
}

class KeyCollector {
 public:
  template <class T>
  void add(std::string_view name, T value) {
    out.keys.push_back({std::string(name), GgufValue(std::move(value))});
  }
  GgufTokenizer out;
};

/// Gemma's text is tokenized without a space put in front, whatever its files say.
std::optional<bool> space_prefix(GgufFamily family, const GgufTokenizerJson& parsed, bool sentencepiece) {
  const bool gemma = family == GgufFamily::kGemma2 || family == GgufFamily::kGemma3;
  if (gemma) return sentencepiece ? std::optional<bool>(false) : std::nullopt;
  const json::value* stated = parsed.config.if_contains("add_prefix_space");
  const bool llama = family == GgufFamily::kLlama || family == GgufFamily::kMixtral;
  return llama && stated != nullptr && stated->is_bool() ? std::optional<bool>(stated->get_bool()) : std::nullopt;
}

}  // namespace

GgufTokenizer make_gguf_tokenizer(const json::object& config, const GgufTokenizerFiles& files,
                                  std::int64_t vocabulary) {
  const GgufConfig settings(config);
  const GgufFamily family = gguf_family(settings.model_class());
  KeyCollector keys;
  if (!files.tokenizer_json && !files.tokenizer_model) {
    keys.add("tokenizer.ggml.model", std::string("none"));
    const std::string size_key = fmt::format("{}.vocab_size", gguf_architecture(family));
    const bool known =
        family == GgufFamily::kLlama || family == GgufFamily::kMixtral || family == GgufFamily::kDeepseek2;
    if (!known) keys.add(size_key, static_cast<std::uint32_t>(vocabulary));
    keys.out.warnings.emplace_back(
        "the checkpoint has neither tokenizer.json nor tokenizer.model: the GGUF file will have no tokenizer and take "
        "token ids alone");
    return std::move(keys.out);
  }
  const GgufTokenizerJson parsed(files);
  GgufVocabulary words = vocabulary_of(family, files, parsed, vocabulary);
  const bool sentencepiece = words.model == "llama";
  if (!sentencepiece) {
    const std::optional<std::string> pre = gguf_pre_tokenizer(parsed.tokenizer);
    words.pre = pre.value_or("default");
    if (!pre) {
      keys.out.warnings.emplace_back(
          "tokenizer.json divides text in a way that has no name in GGUF files; \"default\" is written, with which "
          "llama.cpp may tokenize some texts differently");
    }
  }

  keys.add("tokenizer.ggml.model", words.model);
  keys.add("tokenizer.ggml.pre", words.pre);
  if (const std::optional<bool> prefix = space_prefix(family, parsed, sentencepiece)) {
    keys.add("tokenizer.ggml.add_space_prefix", *prefix);
  }
  GgufTokenizer special = gguf_special_tokens(config, parsed, words);
  std::vector<std::int32_t> types;
  for (const GgufTokenType type : words.types) types.push_back(static_cast<std::int32_t>(type));
  keys.add("tokenizer.ggml.tokens", GgufArray(std::move(words.tokens)));
  if (sentencepiece) keys.add("tokenizer.ggml.scores", GgufArray(std::move(words.scores)));
  keys.add("tokenizer.ggml.token_type", GgufArray(std::move(types)));
  if (!sentencepiece) keys.add("tokenizer.ggml.merges", GgufArray(std::move(words.merges)));
  std::ranges::move(special.keys, std::back_inserter(keys.out.keys));
  std::ranges::move(special.warnings, std::back_inserter(keys.out.warnings));
  std::ranges::move(gguf_chat_templates(files, parsed), std::back_inserter(keys.out.keys));
  return std::move(keys.out);
}

}  // namespace halfquad
