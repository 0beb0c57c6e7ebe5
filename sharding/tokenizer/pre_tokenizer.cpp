#include "sharding/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "runtime/text.h"
#include "sharding/tokenizer/pattern.h"
#include "sharding/tokenizer/tokenizer_json.h"
#include "sharding/tokenizer/unicode.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::string_view kByteLevelWords =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kAdvice = "make the token numbers by other means and give them as --tokens-file";

using Parts = std::vector<PatternPart>;

/// What becomes of a match when a text is cut at it.
enum class Behavior : std::uint8_t { kIsolated, kRemoved, kContiguous, kMergedWithPrevious, kMergedWithNext };
constexpr std::array<std::pair<std::string_view, Behavior>, 5> kBehaviors = {{
    {"Isolated", Behavior::kIsolated},
    {"Removed", Behavior::kRemoved},
    {"Contiguous", Behavior::kContiguous},
    {"MergedWithPrevious", Behavior::kMergedWithPrevious},
    {"MergedWithNext", Behavior::kMergedWithNext},
}};

Behavior behavior_of(const json::object& step, std::string_view otherwise) {
  std::string name = text_in(step, "behavior");
  if (name.empty()) name = otherwise;
  for (const auto& [known, behavior] : kBehaviors) {
    if (name == known) return behavior;
  }
  refuse_file(kTokenizerJson,
              fmt::format("has the behavior {} of a split, which halfquad does not know; {}", quoted(name), kAdvice));
}

/// Neighbours that are both matches, or both not, become one.
Parts contiguous(const Parts& parts) {
  Parts out;
  for (const PatternPart& part : parts) {
    if (!out.empty() && out.back().is_match == part.is_match) {
      out.back().end = part.end;
    } else {
      out.push_back(part);
    }
  }
  return out;
}

/// Each match joins what is before it, unless that is a match too.
Parts merged_with_previous(const Parts& parts) {
  Parts out;
  bool after_match = false;
  for (const PatternPart& part : parts) {
    if (part.is_match && !after_match && !out.empty()) {
      out.back().end = part.end;
    } else {
      out.push_back(part);
    }
    after_match = part.is_match;
  }
  return out;
}

Parts merged_with_next(const Parts& parts) {
  Parts out;
  bool before_match = false;
  for (std::size_t i = parts.size(); i-- > 0;) {
    if (parts[i].is_match && !before_match && !out.empty()) {
      out.back().begin = parts[i].begin;
    } else {
      out.push_back(parts[i]);
    }
    before_match = parts[i].is_match;
  }
  std::ranges::reverse(out);
  return out;
}

Parts cut(Parts parts, Behavior behavior) {
  switch (behavior) {
    case Behavior::kIsolated:
      return parts;
    case Behavior::kRemoved:
      std::erase_if(parts, &PatternPart::is_match);
      return parts;
    case Behavior::kContiguous:
      return contiguous(parts);
    case Behavior::kMergedWithPrevious:
      return merged_with_previous(parts);
    case Behavior::kMergedWithNext:
      return merged_with_next(parts);
  }
  return parts;
}

void add_pieces(const TextPiece& piece, const Parts& parts, std::vector<TextPiece>& out) {
  for (const PatternPart& part : parts) {
    if (part.begin == part.end) continue;
    out.push_back({piece.text.substr(part.begin, part.end - part.begin), piece.is_first && part.begin == 0});
  }
}

/// Cuts every piece at what `find` finds in it.
template <class Find>
PreTokenizerStep cutting_step(Find find, Behavior behavior) {
  return [find = std::move(find), behavior](const std::vector<TextPiece>& pieces) {
    std::vector<TextPiece> out;
    for (const TextPiece& piece : pieces) add_pieces(piece, cut(find(piece.text), behavior), out);
    return out;
  };
}

/// Characters that `is_wanted` are matches, each by itself.
template <class IsWanted>
Parts characters(std::string_view text, IsWanted is_wanted) {
  Parts parts;
  std::size_t end = 0;
  for (std::size_t at = 0; at < text.size();) {
    const Character character = first_character(text.substr(at));
    if (is_wanted(character.code)) {
      if (end < at) parts.push_back({end, at, false});
      end = at + character.bytes;
      parts.push_back({at, end, true});
    }
    at += character.bytes;
  }
  if (end < text.size()) parts.push_back({end, text.size(), false});
  return parts;
}

PreTokenizerStep split_step(const json::object& step) {
  const auto pattern = std::make_shared<const Pattern>(Pattern::of_step(step));
  const auto find = [pattern, inverted = flag_in(step, "invert")](std::string_view text) {
    Parts parts = pattern->parts_of(text);
    for (PatternPart& part : parts) part.is_match = part.is_match != inverted;
    return parts;
  };
  return cutting_step(find, behavior_of(step, ""));
}

/// The character, as UTF-8, that stands for each byte: its own where that is a visible one of Latin-1, else one of
/// those from U+0100 on.
std::array<std::string, 256> byte_characters() {
  std::array<std::string, 256> out;
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < out.size(); ++byte) {
    const bool is_visible = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    const unsigned code = is_visible ? byte : next++;
    if (code < 0x80) {
      out[byte].push_back(static_cast<char>(code));
    } else {
      out[byte].push_back(static_cast<char>(0xC0U | (code >> 6U)));
      out[byte].push_back(static_cast<char>(0x80U | (code & 0x3FU)));
    }
  }
  return out;
}

void add_byte_level(const json::object& step, std::vector<PreTokenizerStep>& steps) {
  if (flag_in(step, "add_prefix_space", true)) {
    steps.emplace_back([](std::vector<TextPiece> pieces) {
      for (TextPiece& piece : pieces) {
        if (!piece.text.starts_with(' ')) piece.text.insert(piece.text.begin(), ' ');
      }
      return pieces;
    });
  }
  if (flag_in(step, "use_regex", true)) {
    const auto words = std::make_shared<const Pattern>(Pattern::regex(std::string(kByteLevelWords)));
    steps.push_back(
        cutting_step([words](std::string_view text) { return words->parts_of(text); }, Behavior::kIsolated));
  }
  steps.emplace_back([characters = byte_characters()](std::vector<TextPiece> pieces) {
    for (TextPiece& piece : pieces) {
      std::string text;
      for (const char byte : piece.text) text += characters[static_cast<unsigned char>(byte)];
      piece.text = std::move(text);
    }
    return pieces;
  });
}

/// When a Metaspace puts its mark in front of a piece that has none.
enum class Prepend : std::uint8_t { kFirst, kNever, kAlways };

Prepend prepend_of(const json::object& step) {
  const std::string scheme = text_in(step, "prepend_scheme");
  const bool never = !flag_in(step, "add_prefix_space", true);  // as older files say it
  if (scheme == "never" || (scheme.empty() && never)) return Prepend::kNever;
  if (never)
    refuse_file(kTokenizerJson, "has a Metaspace whose \"add_prefix_space\" contradicts its \"prepend_scheme\"");
  if (scheme == "always" || scheme.empty()) return Prepend::kAlways;
  if (scheme == "first") return Prepend::kFirst;
  refuse_file(kTokenizerJson,
              fmt::format("has the \"prepend_scheme\" {}, which halfquad does not know; {}", quoted(scheme), kAdvice));
}

void add_metaspace(const json::object& step, std::vector<PreTokenizerStep>& steps) {
  const std::string mark = text_in(step, "replacement");
  if (mark.empty() || first_character(mark).bytes != mark.size()) {
    refuse_file(kTokenizerJson, "has a Metaspace whose \"replacement\" is not one character");
  }
  steps.emplace_back([mark, prepend = prepend_of(step)](std::vector<TextPiece> pieces) {
    for (TextPiece& piece : pieces) {
      std::string text;
      for (const char c : piece.text) text += c == ' ' ? std::string_view(mark) : std::string_view(&c, 1);
      const bool wanted = prepend == Prepend::kAlways || (prepend == Prepend::kFirst && piece.is_first);
      piece.text = wanted && !text.starts_with(mark) ? mark + text : std::move(text);
    }
    return pieces;
  });
  if (!flag_in(step, "split", true)) return;
  const auto pattern = std::make_shared<const Pattern>(Pattern::literal(mark));
  steps.push_back(
      cutting_step([pattern](std::string_view text) { return pattern->parts_of(text); }, Behavior::kMergedWithNext));
}

void add_steps(const json::value& value, std::vector<PreTokenizerStep>& steps) {
  const json::object* step = value.if_object();
  const std::string type = step == nullptr ? "" : text_in(*step, "type");
  if (type == "Sequence") {
    const json::value* parts = find_in(*step, "pretokenizers");
    if (parts == nullptr || !parts->is_array()) refuse_file(kTokenizerJson, "has a Sequence without \"pretokenizers\"");
    for (const json::value& part : parts->get_array()) add_steps(part, steps);
  } else if (type == "Split") {
    steps.push_back(split_step(*step));
  } else if (type == "ByteLevel") {
    add_byte_level(*step, steps);
  } else if (type == "Metaspace") {
    add_metaspace(*step, steps);
  } else if (type == "Digits") {
    const Behavior behavior = flag_in(*step, "individual_digits") ? Behavior::kIsolated : Behavior::kContiguous;
    steps.push_back(cutting_step([](std::string_view text) { return characters(text, is_numeric); }, behavior));
  } else if (type == "Punctuation") {
    steps.push_back(cutting_step([](std::string_view text) { return characters(text, is_punctuation); },
                                 behavior_of(*step, "Isolated")));
  } else {
    refuse_file(kTokenizerJson,
                fmt::format("has the pre-tokenizer {}, which halfquad does not know; {}", quoted(type), kAdvice));
  }
}

}  // namespace

std::vector<PreTokenizerStep> parse_pre_tokenizer(const json::object& tokenizer) {
  std::vector<PreTokenizerStep> steps;
  if (const json::value* value = find_in(tokenizer, "pre_tokenizer")) add_steps(*value, steps);
  return steps;
}

}  // namespace halfquad
