#pragma once

#include <functional>
#include <string>
#include <vector>

#include <boost/json/object.hpp>

namespace halfquad {

/// A part of a text that becomes tokens by itself.
struct TextPiece {
  std::string text;
  bool is_first = false;  ///< Begins where the whole text does.
};

/// One step of how tokenizers divide a text; pieces come out in order, none of them empty.
using PreTokenizerStep = std::function<std::vector<TextPiece>(std::vector<TextPiece>)>;

/// The steps under "pre_tokenizer" of a tokenizer.json: Sequence, Split, ByteLevel, Metaspace, Digits and Punctuation.
/// Throws kBadInput naming a step that is not known.
[[nodiscard]] std::vector<PreTokenizerStep> parse_pre_tokenizer(const boost::json::object& tokenizer);

}  // namespace halfquad
