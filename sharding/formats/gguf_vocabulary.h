#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/object.hpp>

#include "sharding/formats/gguf_names.h"
#include "sharding/formats/gguf_sentencepiece.h"
#include "sharding/formats/gguf_tokenizer.h"

namespace halfquad {

/// Files of a tokenizer, parsed; an absent one is empty.
struct GgufTokenizerJson {
  boost::json::object tokenizer;
  boost::json::object config;
  boost::json::object added_tokens;
  boost::json::object generation;

  /// Throws kBadInput naming a file that is malformed or no JSON object.
  explicit GgufTokenizerJson(const GgufTokenizerFiles& files);
};

/// A token that tokenizer.json or tokenizer_config.json adds to the model's own.
struct GgufAddedToken {
  std::int64_t id = 0;
  std::string text;
  bool special = false;
};
/// By id; where both files have one, tokenizer_config.json's. Throws kBadInput naming the file.
[[nodiscard]] std::vector<GgufAddedToken> gguf_added_tokens(const GgufTokenizerJson& json);

/// What llama.cpp's converter takes for a control token even when it is not marked as one.
[[nodiscard]] bool gguf_looks_special(std::string_view token);

/// A tokenizer's tokens as GGUF keys hold them.
struct GgufVocabulary {
  std::string model;  ///< "gpt2" or "llama".
  std::string pre;
  std::vector<std::string> tokens;
  std::vector<GgufTokenType> types;
  std::vector<float> scores;        ///< "llama" alone.
  std::vector<std::string> merges;  ///< "gpt2" alone.
};

/// Byte-level BPE of a tokenizer.json.
[[nodiscard]] GgufVocabulary gguf_bpe_vocabulary(const GgufTokenizerJson& json, std::int64_t size);

/// A tokenizer.json that imitates a SentencePiece model: its tokens have no scores of their own, but get the rank of
/// the merge that makes them.
[[nodiscard]] bool imitates_sentencepiece(const GgufTokenizerJson& json);
[[nodiscard]] GgufVocabulary gguf_imitated_vocabulary(const GgufTokenizerJson& json, std::int64_t size);

/// A SentencePiece model with what other files add to it.
[[nodiscard]] GgufVocabulary gguf_sentencepiece_vocabulary(GgufFamily family, std::string_view model,
                                                           const GgufTokenizerJson& json, std::int64_t size);

/// llama.cpp's name for the way a tokenizer.json divides text before BPE; nothing when it has none.
[[nodiscard]] std::optional<std::string> gguf_pre_tokenizer(const boost::json::object& tokenizer);

/// Special tokens and whether to add them, as keys. Ids from tokenizer_config.json's texts, then config.json, then
/// generation_config.json, then the texts again among all tokens.
[[nodiscard]] GgufTokenizer gguf_special_tokens(const boost::json::object& config, const GgufTokenizerJson& json,
                                                const GgufVocabulary& vocabulary);

/// tokenizer.chat_template and its kin.
[[nodiscard]] std::vector<GgufKey> gguf_chat_templates(const GgufTokenizerFiles& files, const GgufTokenizerJson& json);

}  // namespace halfquad
