#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <boost/json/object.hpp>

#include "io/gguf.h"

namespace halfquad {

/// Contents of the files of a checkpoint that a tokenizer is made of; those that it has.
struct GgufTokenizerFiles {
  std::optional<std::string> tokenizer_json;
  std::optional<std::string> tokenizer_model;  ///< SentencePiece.
  std::optional<std::string> tokenizer_config;
  std::optional<std::string> added_tokens;
  std::optional<std::string> generation_config;
  std::optional<std::string> chat_template_jinja;
  std::optional<std::string> chat_template_json;
};

struct GgufTokenizer {
  std::vector<GgufKey> keys;          ///< tokenizer.*
  std::vector<std::string> warnings;  ///< One sentence each.
};

/// The keys that llama.cpp needs to tokenize for a model: tokens, types, scores or merges, special tokens, the
/// chat template. `vocabulary` is the number of rows of the embedding: so many tokens there will be, unused ones
/// "[PAD<n>]". A pre-tokenizer that llama.cpp has no name for becomes "default" with a warning; without any tokenizer
/// file the model is written without one, with a warning, for use with token ids alone.
/// Throws kBadInput naming the file for what is malformed, for a kind of tokenizer that GGUF cannot hold, and for
/// tokens beyond the vocabulary.
[[nodiscard]] GgufTokenizer make_gguf_tokenizer(const boost::json::object& config, const GgufTokenizerFiles& files,
                                                std::int64_t vocabulary);

}  // namespace halfquad
