#include "sharding/tokenizer/added_vocabulary.h"

#include <algorithm>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "runtime/text.h"
#include "sharding/tokenizer/unicode.h"

namespace halfquad {
namespace {

/// Where the white space at the end of `text` begins.
std::size_t begin_of_last_space(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    std::size_t begin = end - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0U) == 0x80U) --begin;
    if (!is_white_space(first_character(text.substr(begin)).code)) break;
    end = begin;
  }
  return end;
}

std::size_t end_of_first_space(std::string_view text) {
  std::size_t end = 0;
  while (end < text.size()) {
    const Character character = first_character(text.substr(end));
    if (!is_white_space(character.code)) break;
    end += character.bytes;
  }
  return end;
}

/// The tokens with the numbers that the tokenizers library gives them: the model's own for those that the model has,
/// for others the next free ones, whatever the file says. A later one of a number replaces it.
std::map<std::int64_t, AddedToken> numbered(std::vector<AddedToken> tokens, const BpeModel& model) {
  std::map<std::string, std::int64_t> ids;
  std::map<std::int64_t, AddedToken> out;
  std::int64_t next = model.size();
  for (AddedToken& token : tokens) {
    if (token.text.empty()) continue;
    if (token.single_word) {
      refuse_file(
          kTokenizerJson,
          fmt::format("has the added token {} with \"single_word\", which halfquad does not know; make the token "
                      "numbers by other means and give them as --tokens-file",
                      quoted(token.text)));
    }
    const auto known = ids.find(token.text);
    const std::optional<std::int64_t> own = known == ids.end() ? model.id_of(token.text) : known->second;
    token.id = own ? *own : next++;
    ids[token.text] = token.id;
    out[token.id] = std::move(token);
  }
  return out;
}

}  // namespace

void AddedMatcher::add(const AddedToken& token, std::string_view text) {
  if (text.empty()) return;
  first_bytes_.set(static_cast<unsigned char>(text.front()));
  std::size_t at = 0;
  for (const char byte : text) {
    const auto [next, is_new] = nodes_[at].next.try_emplace(byte, nodes_.size());
    at = next->second;
    if (is_new) nodes_.emplace_back();
  }
  if (nodes_[at].token) refuse_file(kTokenizerJson, fmt::format("adds the token {} twice", quoted(text)));
  nodes_[at].token = token;
}

std::optional<AddedMatcher::Found> AddedMatcher::longest_at(std::string_view text, std::size_t begin) const {
  std::optional<Found> found;
  std::size_t node = 0;
  for (std::size_t at = begin; at < text.size(); ++at) {
    const auto next = nodes_[node].next.find(text[at]);
    if (next == nodes_[node].next.end()) break;
    node = next->second;
    if (nodes_[node].token) found = Found{&*nodes_[node].token, begin, at + 1};
  }
  return found;
}

std::optional<AddedMatcher::Found> AddedMatcher::find(std::string_view text, std::size_t from) const {
  for (std::size_t at = from; at < text.size(); ++at) {
    if (!first_bytes_.test(static_cast<unsigned char>(text[at]))) continue;
    if (auto found = longest_at(text, at)) return found;
  }
  return std::nullopt;
}

void AddedMatcher::split(TextPiece piece, std::vector<AddedPart>& parts) const {
  const std::string_view text = piece.text;
  const auto add_text = [&](std::size_t begin, std::size_t end) {
    if (begin >= end) return;
    parts.push_back({std::nullopt, {std::string(text.substr(begin, end - begin)), piece.is_first && begin == 0}});
  };
  std::size_t done = 0;
  for (std::size_t from = 0; const std::optional<Found> found = find(text, from);) {
    from = found->end;
    std::size_t begin = found->begin, end = found->end;
    if (found->token->strips_left) begin = std::max(begin_of_last_space(text.substr(0, begin)), done);
    if (found->token->strips_right) end += end_of_first_space(text.substr(end));
    add_text(done, begin);
    parts.push_back({found->token->id, {}});
    done = end;
  }
  if (done == 0 && !text.empty()) return parts.push_back({std::nullopt, std::move(piece)});
  add_text(done, text.size());
}

AddedVocabulary::AddedVocabulary(const boost::json::object& tokenizer, const BpeModel& model,
                                 const std::vector<NormalizerStep>& normalizer) {
  for (const auto& [id, token] : numbered(added_tokens_in(tokenizer), model)) {
    if (token.normalized) {
      normalized_.add(token, halfquad::normalized(normalizer, token.text));
    } else {
      plain_.add(token, token.text);
    }
  }
}

std::vector<AddedPart> AddedVocabulary::split(std::string_view text,
                                              const std::vector<NormalizerStep>& normalizer) const {
  std::vector<AddedPart> parts;
  plain_.split({std::string(text), /*is_first=*/true}, parts);
  std::vector<AddedPart> out;
  for (AddedPart& part : parts) {
    if (part.id) {
      out.push_back(std::move(part));
    } else {
      const bool is_first = part.piece.is_first;
      normalized_.split({normalized(normalizer, std::move(part.piece.text)), is_first}, out);
    }
  }
  return out;
}

}  // namespace halfquad
