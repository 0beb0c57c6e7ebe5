#include "sharding/formats/gguf_vocabulary.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <utility>

#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <fmt/format.h>

#include "runtime/text.h"
#include "sharding/tokenizer/tokenizer_json.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::string_view kTokenizerConfig = "tokenizer_config.json";
constexpr std::string_view kAddedTokens = "added_tokens.json";
/// What SentencePiece writes for a space.
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";
constexpr float kPadScore = -10000.0F;
constexpr float kAddedScore = -1000.0F;

json::object parse_object(const std::optional<std::string>& text, std::string_view file) {
  return text ? parse_tokenizer_file(*text, file) : json::object();
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
      refuse_file(file_, fmt::format("token {} has the id {}, but the embedding has {} rows", quoted(text), id,
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
  if (json.tokenizer.empty()) refuse_file(kTokenizerJson, "is missing; there is no other tokenizer that GGUF can hold");
  return bpe_model_in(json.tokenizer, "only BPE can be written as GGUF");
}

void add_vocabulary(TokenTable& table, const json::object& model) {
  for (const auto& [text, id] : need_object(model, "vocab")) {
    table.set(token_id(id, kTokenizerJson, text), std::string(text), GgufTokenType::kNormal, kPadScore);
  }
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
  for (AddedToken& token : added_tokens_in(json.tokenizer)) {
    tokens[token.id] = {token.id, std::move(token.text), token.special};
  }
  const json::value* decoder = json.config.if_contains("added_tokens_decoder");
  if (decoder == nullptr || !decoder->is_object()) decoder = nullptr;
  for (const auto& [key, entry] : decoder == nullptr ? json::object() : decoder->get_object()) {
    std::int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    const json::object* fields = entry.if_object();
    const json::value* text = fields == nullptr ? nullptr : fields->if_contains("content");
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || text == nullptr) {
      refuse_file(kTokenizerConfig, fmt::format("has an added token {} without id or content",
                                                quoted(std::string_view(key.data(), key.size()))));
    }
    tokens[id] = {id, text_of(*text, kTokenizerConfig, "an added token"), flag_in(*fields, "special")};
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
  if (flag_in(model, "byte_fallback")) {
    refuse_file(kTokenizerJson,
                "imitates a SentencePiece model in a way that GGUF cannot hold; add the model's tokenizer.model");
  }
  TokenTable table(size, kTokenizerJson);
  add_vocabulary(table, model);
  for (const GgufAddedToken& token : gguf_added_tokens(json)) table.set_added(token);
  GgufVocabulary out = table.take();
  out.model = "gpt2";
  out.scores.clear();
  for (const auto& [left, right] : bpe_merges_in(model)) {
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
  return sequence && flag_in(bpe_model(json), "byte_fallback");
}

GgufVocabulary gguf_imitated_vocabulary(const GgufTokenizerJson& json, std::int64_t size) {
  const json::object& model = bpe_model(json);
  const auto merges = bpe_merges_in(model);
  // SentencePiece merges the pair whose piece has the highest score first, as BPE does the one of lowest rank.
  std::map<std::string, float> rank;
  for (std::size_t i = 0; i < merges.size(); ++i) {
    const auto& [left, right] = merges[i];
    rank.emplace(left + right, -static_cast<float>(i));
  }
  const json::value* unknown = model.if_contains("unk_token");
  TokenTable table(size, kTokenizerJson);
  for (const auto& [key, id] : need_object(model, "vocab")) {
    const std::string text(key);
    const auto merged = rank.find(text);
    GgufTokenType type = is_byte_token(text) ? GgufTokenType::kByte : GgufTokenType::kNormal;
    if (unknown != nullptr && unknown->is_string() && unknown->get_string() == key) type = GgufTokenType::kUnknown;
    table.set(token_id(id, kTokenizerJson, text), text, type,
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
    const std::int64_t id = token_id(value, kAddedTokens, text);
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
