#include "sharding/tokenizer/tokenizer_json.h"

#include <fmt/format.h>

#include "io/json.h"
#include "runtime/error.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

namespace json = boost::json;

/// "a b" of older files, or ["a", "b"].
std::pair<std::string, std::string> merge_of(const json::value& value) {
  if (const json::array* pair = value.if_array(); pair != nullptr && pair->size() == 2) {
    return {text_of((*pair)[0], kTokenizerJson, "half of a merge"),
            text_of((*pair)[1], kTokenizerJson, "half of a merge")};
  }
  const std::string text = text_of(value, kTokenizerJson, "a merge");
  const std::size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
    refuse_file(kTokenizerJson, fmt::format("has the merge {} that is no pair", quoted(text)));
  }
  return {text.substr(0, space), text.substr(space + 1)};
}

}  // namespace

void refuse_file(std::string_view file, const std::string& reason) {
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", file, reason));
}

json::object parse_tokenizer_file(std::string_view text, std::string_view file) {
  json::value root = parse_json(text, file);
  if (!root.is_object()) refuse_file(file, "is not a JSON object");
  return std::move(root.get_object());
}

std::string text_of(const json::value& value, std::string_view file, std::string_view what) {
  const json::string* text = value.if_string();
  if (text == nullptr) refuse_file(file, fmt::format("{} is not a string", what));
  return {text->data(), text->size()};
}

std::int64_t token_id(const json::value& value, std::string_view file, std::string_view token) {
  if (!value.is_int64() || value.get_int64() < 0) {
    refuse_file(file, fmt::format("token {} has an id that is no whole number", quoted(token)));
  }
  return value.get_int64();
}

bool flag_in(const json::object& object, std::string_view name, bool otherwise) {
  const json::value* value = object.if_contains({name.data(), name.size()});
  return value == nullptr || !value->is_bool() ? otherwise : value->get_bool();
}

const json::value* find_in(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains({name.data(), name.size()});
  return value == nullptr || value->is_null() ? nullptr : value;
}

std::string text_in(const json::object& object, std::string_view name) {
  const json::value* value = find_in(object, name);
  if (value == nullptr || !value->is_string()) return {};
  return {value->get_string().data(), value->get_string().size()};
}

const json::object& need_object(const json::object& object, std::string_view name) {
  const json::value* value = find_in(object, name);
  if (value == nullptr || !value->is_object()) {
    refuse_file(kTokenizerJson, fmt::format("has no object {}", quoted(name)));
  }
  return value->get_object();
}

const json::object& bpe_model_in(const json::object& tokenizer, std::string_view otherwise) {
  const json::object& model = need_object(tokenizer, "model");
  const json::value* type = find_in(model, "type");
  const std::string name = type == nullptr ? "" : text_of(*type, kTokenizerJson, "the model's type");
  // Old files leave the type out; only BPE has merges.
  if (name != "BPE" && !(name.empty() && model.contains("merges"))) {
    refuse_file(kTokenizerJson, fmt::format("has a tokenizer of type {}; {}", quoted(name), otherwise));
  }
  return model;
}

std::vector<std::pair<std::string, std::string>> bpe_merges_in(const json::object& model) {
  const json::value* merges = find_in(model, "merges");
  if (merges == nullptr || !merges->is_array()) refuse_file(kTokenizerJson, "has no list of merges");
  std::vector<std::pair<std::string, std::string>> out;
  out.reserve(merges->get_array().size());
  for (const json::value& merge : merges->get_array()) {
    if (merge.is_string() && merge.get_string().starts_with("#version")) continue;  // the head of a merges.txt
    out.push_back(merge_of(merge));
  }
  return out;
}

std::vector<AddedToken> added_tokens_in(const json::object& tokenizer) {
  std::vector<AddedToken> out;
  const json::value* list = find_in(tokenizer, "added_tokens");
  if (list == nullptr || !list->is_array()) return out;
  for (const json::value& entry : list->get_array()) {
    const json::object* fields = entry.if_object();
    const json::value* text = fields == nullptr ? nullptr : fields->if_contains("content");
    const json::value* id = fields == nullptr ? nullptr : fields->if_contains("id");
    if (text == nullptr || id == nullptr) {
      refuse_file(kTokenizerJson, "has an added token without id or content");
    }
    AddedToken token;
    token.text = text_of(*text, kTokenizerJson, "an added token");
    token.id = token_id(*id, kTokenizerJson, token.text);
    token.special = flag_in(*fields, "special");
    token.single_word = flag_in(*fields, "single_word");
    token.strips_left = flag_in(*fields, "lstrip");
    token.strips_right = flag_in(*fields, "rstrip");
    token.normalized = flag_in(*fields, "normalized", !token.special);
    out.push_back(std::move(token));
  }
  return out;
}

}  // namespace halfquad
