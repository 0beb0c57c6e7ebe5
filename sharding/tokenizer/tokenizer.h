#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sharding/tokenizer/added_vocabulary.h"
#include "sharding/tokenizer/bpe_model.h"
#include "sharding/tokenizer/normalizer.h"
#include "sharding/tokenizer/pre_tokenizer.h"

namespace halfquad {

/// A model's tokenizer, as its tokenizer.json describes it: BPE, of bytes or as SentencePiece does it. Gives the
/// numbers that the tokenizers library gives.
class Tokenizer {
 public:
  /// Throws kBadInput naming what is malformed, and every component that is not known.
  explicit Tokenizer(std::string_view tokenizer_json);

  /// The tokens of a text, which is UTF-8. Special tokens that the text spells out are themselves; none are put around
  /// it. Throws kBadInput when a regular expression of the file fails on it, or a character has no token.
  [[nodiscard]] std::vector<std::int64_t> encode(std::string_view text) const;

  /// What the tokenizer puts before a text: the start token of models that have one.
  [[nodiscard]] const std::vector<std::int64_t>& start() const noexcept { return start_; }

 private:
  explicit Tokenizer(const boost::json::object& json);

  BpeModel model_;
  std::vector<NormalizerStep> normalizer_;
  AddedVocabulary added_;
  std::vector<PreTokenizerStep> pre_tokenizer_;
  std::vector<std::int64_t> start_;
};

}  // namespace halfquad
