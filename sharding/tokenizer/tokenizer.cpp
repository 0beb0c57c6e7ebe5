#include "sharding/tokenizer/tokenizer.h"

#include <utility>

#include <boost/json/array.hpp>
#include <fmt/format.h>

#include "runtime/text.h"
#include "sharding/tokenizer/tokenizer_json.h"

namespace halfquad {
namespace {

namespace json = boost::json;

/// The ids of a special token of a TemplateProcessing.
void add_special_token(const json::object& processor, const std::string& name, std::vector<std::int64_t>& ids) {
  const json::object& special = need_object(need_object(processor, "special_tokens"), name);
  const json::value* list = find_in(special, "ids");
  if (list == nullptr || !list->is_array()) {
    refuse_file(kTokenizerJson, fmt::format("has no list of the ids of the special token {}", quoted(name)));
  }
  for (const json::value& id : list->get_array()) ids.push_back(token_id(id, kTokenizerJson, name));
}

/// What a TemplateProcessing puts before a single text.
void add_template_start(const json::object& processor, std::vector<std::int64_t>& ids) {
  const json::value* single = find_in(processor, "single");
  if (single == nullptr || !single->is_array()) {
    refuse_file(kTokenizerJson, "has a TemplateProcessing without a list \"single\"");
  }
  for (const json::value& piece : single->get_array()) {
    const json::object* fields = piece.if_object();
    const json::value* token = fields == nullptr ? nullptr : find_in(*fields, "SpecialToken");
    if (token == nullptr || !token->is_object()) return;
    add_special_token(processor, text_in(token->get_object(), "id"), ids);
  }
}

void add_start(const json::value& value, std::vector<std::int64_t>& ids) {
  const json::object* processor = value.if_object();
  const std::string type = processor == nullptr ? "" : text_in(*processor, "type");
  if (type == "Sequence") {
    const json::value* parts = find_in(*processor, "processors");
    if (parts == nullptr || !parts->is_array()) refuse_file(kTokenizerJson, "has a Sequence without \"processors\"");
    for (const json::value& part : parts->get_array()) add_start(part, ids);
  } else if (type == "TemplateProcessing") {
    add_template_start(*processor, ids);
  } else if (type != "ByteLevel") {
    refuse_file(kTokenizerJson, fmt::format("has the post-processor {}, which halfquad does not know; make the token "
                                            "numbers by other means and give them as --tokens-file",
                                            quoted(type)));
  }
}

std::vector<std::int64_t> parse_start(const json::object& tokenizer) {
  std::vector<std::int64_t> ids;
  if (const json::value* value = find_in(tokenizer, "post_processor")) add_start(*value, ids);
  return ids;
}

}  // namespace

Tokenizer::Tokenizer(std::string_view tokenizer_json)
    : Tokenizer(parse_tokenizer_file(tokenizer_json, kTokenizerJson)) {}

Tokenizer::Tokenizer(const json::object& json)
    : model_(json),
      normalizer_(parse_normalizer(json)),
      added_(json, model_, normalizer_),
      pre_tokenizer_(parse_pre_tokenizer(json)),
      start_(parse_start(json)) {}

std::vector<std::int64_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int64_t> ids;
  for (AddedPart& part : added_.split(text, normalizer_)) {
    if (part.id) {
      ids.push_back(*part.id);
      continue;
    }
    std::vector<TextPiece> pieces;
    pieces.push_back(std::move(part.piece));
    for (const PreTokenizerStep& step : pre_tokenizer_) pieces = step(std::move(pieces));
    for (const TextPiece& piece : pieces) model_.encode(piece.text, ids);
  }
  return ids;
}

}  // namespace halfquad
