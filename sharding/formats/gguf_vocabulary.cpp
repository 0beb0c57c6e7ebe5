#include "sharding/formats/gguf_vocabulary.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <utility>

#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <fmt/format.h>

#include "io/json.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::string_view kTokenizerJson = "tokenizer.json";
constexpr std::string_view kTokenizerConfig = "tokenizer_config.json";
constexpr std::string_view kAddedTokens = "added_tokens.json";
/// What SentencePiece writes for a space.
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";
constexpr float kPadScore = -10000.0F;
constexpr float kAddedScore = -1000.0F;

[[noreturn]] void refuse(std::string_view file, const std::string& reason) {
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", file, reason));
}

json::object parse_object(const std::optional<std::string>& text, std::string_view file) {
  if (!text) return {};
  json::value root = parse_json(*text, file);
  if (!root.is_object()) refuse(file, "is not a JSON object");
  return std::move(root.get_object());
}

std::string text_of(const json::value& value, std::string_view file, std::string_view what) {
  const json::string* text = value.if_string();
  if (text == nullptr) refuse(file, fmt::format("{} is not a string", what));
  return {text->data(), text->size()};
}

/// A token's number; it must be one of `size` when that is known.
std::int64_t id_of(const json::value& value, std::string_view file, std::string_view token) {
  if (!value.is_int64() || value.get_int64() < 0) {
    refuse(file, fmt::format("token {} has an id that is no whole number", quoted(token)));
  }
  return value.get_int64();
}

bool flag_of(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains({name.data(), name.size()});
  return value != nullptr && value->is_bool() && value->get_bool();
}

const json::object& object_of(const json::object& object, std::string_view name) {
  const json::value* value = object.if_contains({name.data(), name.size()});
  if (value == nullptr || !value->is_object()) refuse(kTokenizerJson, fmt::format("has no object {}", quoted(name)));
  return value->get_object();
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
    text.replace(at, from.size(), to);
  }
  return text;
}

/// Tokens by number, all unused to begin with.
class TokenTable {
 public:
  TokenTable(std::int64_t size, std::string_view file) : file_(file) {
    for (std::int64_t i = 0; i < size; ++i) out_.tokens.push_back(fmt::format("[PAD{}]", i));
    out_.types.assign(out_.tokens.size(), GgufTokenType::kUnused);
    out_.scores.assign(out_.tokens.size(), kPadScore);
  }

  [[nodiscard]] bool holds(std::int64_t id) const { return std::cmp_less(id, out_.tokens.size()); }

  void set(std::int64_t id, std::string text, GgufTokenType type, float score) {
    if (!holds(id)) {
      refuse(file_, fmt::format("token {} has the id {}, but the embedding has {} rows", quoted(text), id,
                                out_.tokens.size()));
    }
    const auto index = static_cast<std::size_t>(id);
    out_.tokens[index] = std::move(text);
    out_.types[index] = type;
    out_.scores[index] = score;
  }

  /// A control token, or one that the user defined, in which a space is a space.
  void set_added(const GgufAddedToken& token) {
    const bool control = token.special || gguf_looks_special(token.text);
    set(token.id, control ? token.text : replaced(token.text, kSpaceMark, " "),
        control ? GgufTokenType::kControl : GgufTokenType::kUserDefined, kAddedScore);
  }

  [[nodiscard]] GgufVocabulary take() { return std::move(out_); }

 private:
  std::string_view file_;
  GgufVocabulary out_;
};

const json::object& bpe_model(const GgufTokenizerJson& json) {
  if (json.tokenizer.empty()) refuse(kTokenizerJson, "is missing; there is no other tokenizer that GGUF can hold");
  const json::object& model = object_of(json.tokenizer, "model");
  const json::value* type = model.if_contains("type");
  const std::string name = type == nullptr || type->is_null() ? "" : text_of(*type, kTokenizerJson, "the model's type");
  // Old files leave the type out; only BPE has merges.
  if (name != "BPE" && !(name.empty() && model.contains("merges"))) {
    refuse(kTokenizerJson, fmt::format("has a tokenizer of type {}; only BPE can be written as GGUF", quoted(name)));
  }
  return model;
}

void add_vocabulary(TokenTable& table, const json::object& model) {
  for (const auto& [text, id] : object_of(model, "vocab")) {
    table.set(id_of(id, kTokenizerJson, text), std::string(text), GgufTokenType::kNormal, kPadScore);
  }
}

/// Both halves of a merge, as "a b" or ["a", "b"].
std::pair<std::string, std::string> merge_of(const json::value& value) {
  if (const json::array* pair = value.if_array(); pair != nullptr && pair->size() == 2) {
    return {text_of((*pair)[0], kTokenizerJson, "half of a merge"),
            text_of((*pair)[1], kTokenizerJson, "half of a merge")};
  }
  const std::string text = text_of(value, kTokenizerJson, "a merge");
  const std::size_t space = text.find(' ');
  if (space == std::string::npos) refuse(kTokenizerJson, fmt::format("has the merge {} that is no pair", quoted(text)));
  return {text.substr(0, space), text.substr(space + 1)};
}

const json::array& merges_of(const json::object& model) {
  const json::value* merges = model.if_contains("merges");
  if (merges == nullptr || !merges->is_array()) refuse(kTokenizerJson, "has no list of merges");
  return merges->get_array();
}

bool is_byte_token(std::string_view text) {
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f'); };
  return text.size() == 6 && text.starts_with("<0x") && is_hex(text[3]) && is_hex(text[4]) && text[5] == '>';
}

}  // namespace

GgufTokenizerJson::GgufTokenizerJson(const GgufTokenizerFiles& files)
    : tokenizer(parse_object(files.tokenizer_json, kTokenizerJson)),
      config(parse_object(files.tokenizer_config, kTokenizerConfig)),
      added_tokens(parse_object(files.added_tokens, kAddedTokens)),
      generation(parse_object(files.generation_config, "generation_config.json")) {}

std::vector<GgufAddedToken> gguf_added_tokens(const GgufTokenizerJson& json) {
  std::map<std::int64_t, GgufAddedToken> tokens;
  if (const json::value* list = json.tokenizer.if_contains("added_tokens"); list != nullptr && list->is_array()) {
    for (const json::value& entry : list->get_array()) {
      const json::object* fields = entry.if_object();
      const json::value* text = fields == nullptr ? nullptr : fields->if_contains("content");
      const json::value* id = fields == nullptr ? nullptr : fields->if_contains("id");
      if (text == nullptr || id == nullptr) refuse(kTokenizerJson, "has an added token without id or content");
      GgufAddedToken token{0, text_of(*text, kTokenizerJson, "an added token"), flag_of(*fields, "special")};
      token.id = id_of(*id, kTokenizerJson, token.text);
      tokens[token.id] = std::move(token);
    }
  }
  const json::value* decoder = json.config.if_contains("added_tokens_decoder");
  if (decoder == nullptr || !decoder->is_object()) decoder = nullptr;
  for (const auto& [key, entry] : decoder == nullptr ? json::object() : decoder->get_object()) {
    std::int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    const json::object* fields = entry.if_object();
    const json::value* text = fields == nullptr ? nullptr : fields->if_contains("content");
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || text == nullptr) {
      refuse(kTokenizerConfig, fmt::format("has an added token {} without id or content",
                                           quoted(std::string_view(key.data(), key.size()))));
    }
    tokens[id] = {id, text_of(*text, kTokenizerConfig, "an added token"), flag_of(*fields, "special")};
  }
  std::vector<GgufAddedToken> out;
  for (auto& [id, token] : tokens) out.push_back(std::move(token));
  return out;
}

bool gguf_looks_special(std::string_view token) {
  constexpr std::array<std::string_view, 4> kNames = {"<pad>", "<mask>", "<2mass>", "[@BOS@]"};
  constexpr std::string_view kWideBar = "\xEF\xBD\x9C";
  const auto enclosed = [&](std::string_view front, std::string_view back) {
    return token.size() >= front.size() + back.size() && token.starts_with(front) && token.ends_with(back);
  };
  return std::ranges::find(kNames, token) != kNames.end() || enclosed("<|", "|>") || enclosed("<unused", ">") ||
         enclosed(fmt::format("<{}", kWideBar), fmt::format("{}>", kWideBar));
}

GgufVocabulary gguf_bpe_vocabulary(const GgufTokenizerJson& json, std::int64_t size) {
  const json::object& model = bpe_model(json);
  if (flag_of(model, "byte_fallback")) {
    refuse(kTokenizerJson,
           "imitates a SentencePiece model in a way that GGUF cannot hold; add the model's tokenizer.model");
  }
  TokenTable table(size, kTokenizerJson);
  add_vocabulary(table, model);
  for (const GgufAddedToken& token : gguf_added_tokens(json)) table.set_added(token);
  GgufVocabulary out = table.take();
  out.model = "gpt2";
  out.scores.clear();
  for (const json::value& merge : merges_of(model)) {
    const auto [left, right] = merge_of(merge);
    // A space divides the halves; one inside of them is the character that stands for the byte.
    out.merges.push_back(fmt::format("{} {}", replaced(left, " ", "\xC4\xA0"), replaced(right, " ", "\xC4\xA0")));
  }
  return out;
}

bool imitates_sentencepiece(const GgufTokenizerJson& json) {
  if (json.tokenizer.empty()) return false;
  const json::value* decoder = json.tokenizer.if_contains("decoder");
  const json::value* type =
      decoder == nullptr || !decoder->is_object() ? nullptr : decoder->get_object().if_contains("type");
  const bool sequence = type != nullptr && type->is_string() && type->get_string() == "Sequence";
  return sequence && flag_of(bpe_model(json), "byte_fallback");
}

GgufVocabulary gguf_imitated_vocabulary(const GgufTokenizerJson& json, std::int64_t size) {
  const json::object& model = bpe_model(json);
  const json::array& merges = merges_of(model);
  // SentencePiece merges the pair whose piece has the highest score first, as BPE does the one of lowest rank.
  std::map<std::string, float> rank;
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const auto [left, right] = merge_of(merges[i]);
    rank.emplace(left + right, -static_cast<float>(i));
  }
  const json::value* unknown = model.if_contains("unk_token");
  TokenTable table(size, kTokenizerJson);
  for (const auto& [key, id] : object_of(model, "vocab")) {
    const std::string text(key);
    const auto merged = rank.find(text);
    GgufTokenType type = is_byte_token(text) ? GgufTokenType::kByte : GgufTokenType::kNormal;
    if (unknown != nullptr && unknown->is_string() && unknown->get_string() == key) type = GgufTokenType::kUnknown;
    table.set(id_of(id, kTokenizerJson, text), text, type,
              merged == rank.end() ? -static_cast<float>(merges.size()) : merged->second);
  }
  for (const GgufAddedToken& token : gguf_added_tokens(json)) {
    const bool is_unknown =
        unknown != nullptr && unknown->is_string() && token.text == std::string(unknown->get_string());
    if (!is_unknown) table.set_added(token);
  }
  GgufVocabulary out = table.take();
  out.model = "llama";
  out.pre = "default";
  return out;
}

GgufVocabulary gguf_sentencepiece_vocabulary(GgufFamily family, std::string_view model, const GgufTokenizerJson& json,
                                             std::int64_t size) {
  constexpr std::string_view kFile = "tokenizer.model";
  TokenTable table(size, kFile);
  const std::vector<SentencePiece> pieces = parse_sentencepiece_model(model, kFile);
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    // llama.cpp finds the user's own pieces by their scores like all others. Marked as what they are it would look for
    // their text before spaces become U+2581, and not find them.
    const bool own = pieces[i].type == GgufTokenType::kUserDefined;
    table.set(static_cast<std::int64_t>(i), pieces[i].text, own ? GgufTokenType::kNormal : pieces[i].type,
              pieces[i].score);
  }
  for (const auto& [text, value] : json.added_tokens) {
    const std::int64_t id = id_of(value, kAddedTokens, text);
    if (table.holds(id)) table.set(id, std::string(text), GgufTokenType::kUserDefined, kAddedScore);
  }
  // Phi-3's own additions are in tokenizer.json too; other families' tokenizer.json merely repeats the model's tokens.
  GgufTokenizerJson sources = json;
  if (family != GgufFamily::kPhi3) sources.tokenizer.clear();
  for (const GgufAddedToken& token : gguf_added_tokens(sources)) {
    if (!table.holds(token.id)) continue;
    if (family == GgufFamily::kPhi3) {
      const GgufTokenType type = token.special ? GgufTokenType::kControl : GgufTokenType::kUserDefined;
      table.set(token.id, token.text, type, kAddedScore);
    } else {
      table.set_added(token);
    }
  }
  GgufVocabulary out = table.take();
  out.model = "llama";
  out.pre = "default";
  return out;
}

}  // namespace halfquad
