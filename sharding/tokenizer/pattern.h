#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <boost/json/object.hpp>

namespace halfquad {

/// A part of a text: a match, or what lies between two.
struct PatternPart {
  std::size_t begin = 0, end = 0;
  bool is_match = false;
};

/// What a step of a tokenizer looks for: a text or a regular expression.
class Pattern {
 public:
  /// A regular expression as Oniguruma, which the tokenizers library uses, understands it. Throws kBadInput naming
  /// tokenizer.json for one that it does not.
  [[nodiscard]] static Pattern regex(const std::string& expression);
  /// A text that is not empty.
  [[nodiscard]] static Pattern literal(std::string text);
  /// {"String": ...} or {"Regex": ...} under "pattern" of a step. Throws kBadInput.
  [[nodiscard]] static Pattern of_step(const boost::json::object& step);

  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;
  ~Pattern();

  /// All of `text`, which is UTF-8, in parts. An empty text has one part that is no match. Throws kBadInput when a
  /// regular expression takes too many steps.
  [[nodiscard]] std::vector<PatternPart> parts_of(std::string_view text) const;

 private:
  class Regex;
  Pattern(std::string literal, std::unique_ptr<const Regex> regex);

  std::string literal_;  ///< Empty: the regular expression.
  std::unique_ptr<const Regex> regex_;
};

}  // namespace halfquad
