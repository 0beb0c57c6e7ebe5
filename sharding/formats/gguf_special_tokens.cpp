#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <fmt/format.h>

#include "io/json.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/formats/gguf_vocabulary.h"
#include "sharding/tokenizer/tokenizer_json.h"

namespace halfquad {
namespace {

namespace json = boost::json;

struct SpecialKind {
  std::string_view name;  ///< In Hugging Face's files: "bos_token", "bos_token_id", "add_bos_token".
  std::string_view key;   ///< In GGUF; empty for one that llama.cpp has no key for.
};

constexpr std::array kKinds = {
    SpecialKind{"bos", "bos_token_id"},     SpecialKind{"eos", "eos_token_id"},
    SpecialKind{"unk", "unknown_token_id"}, SpecialKind{"sep", "seperator_token_id"},  // spelled as llama.cpp does
    SpecialKind{"pad", "padding_token_id"}, SpecialKind{"cls", ""},
    SpecialKind{"mask", "mask_token_id"},   SpecialKind{"eot", "eot_token_id"},
};
constexpr std::array<std::string_view, 3> kAddKinds = {"bos", "eos", "sep"};

const json::array* list_in(const json::object& object, std::string_view name) {
  const json::value* value = find_in(object, name);
  return value == nullptr ? nullptr : value->if_array();
}

/// The special token of a step of a template; empty when the step is a text's place.
std::string token_of(const json::value& step) {
  const json::object* fields = step.if_object();
  const json::value* special = fields == nullptr ? nullptr : find_in(*fields, "SpecialToken");
  return special == nullptr || !special->is_object() ? std::string() : text_in(special->get_object(), "id");
}

/// Gathers what several files say about special tokens.
class SpecialTokens {
 public:
  SpecialTokens(const json::object& config, const GgufTokenizerJson& json, const GgufVocabulary& vocabulary)
      : config_(config), json_(json), vocabulary_(vocabulary) {}

  [[nodiscard]] GgufTokenizer gather() {
    for (const SpecialKind& kind : kKinds) {
      if (kind.name != "eot") texts_[std::string(kind.name)] = text_of_kind(kind.name);
    }
    if (texts_["bos"].empty()) texts_["bos"] = texts_["cls"];
    if (texts_["eos"].empty()) texts_["eos"] = texts_["sep"];
    read_post_processor();
    read_add_flags();
    GgufTokenizer out;
    for (const SpecialKind& kind : kKinds) add_id(kind, out);
    for (const std::string_view kind : kAddKinds) {
      const auto found = add_.find(std::string(kind));
      if (found != add_.end()) out.keys.push_back({fmt::format("tokenizer.ggml.add_{}_token", kind), found->second});
    }
    out.warnings = std::move(warnings_);
    return out;
  }

 private:
  /// tokenizer_config.json's text of a special token, which may be wrapped in an object.
  [[nodiscard]] std::string text_of_kind(std::string_view kind) const {
    const std::string name = fmt::format("{}_token", kind);
    const json::value* value = find_in(json_.config, name);
    if (value != nullptr && value->is_object()) return text_in(value->get_object(), "content");
    return text_in(json_.config, name);
  }

  /// What tokenizer.json puts around a text.
  void read_post_processor() {
    const json::value* processor = find_in(json_.tokenizer, "post_processor");
    if (processor == nullptr || !processor->is_object()) return;
    if (const json::array* parts = list_in(processor->get_object(), "processors"); parts != nullptr) {
      for (const json::value& part : *parts) read_processor(part);
    } else {
      read_processor(*processor);
    }
  }

  void read_processor(const json::value& processor) {
    const json::object* fields = processor.if_object();
    const std::string type = fields == nullptr ? "" : text_in(*fields, "type");
    if (type == "ByteLevel") {
      add_.try_emplace("bos", false);
      add_.try_emplace("eos", false);
    } else if (type == "TemplateProcessing") {
      const json::array* single = list_in(*fields, "single");
      if (single != nullptr && single->size() > 1) read_template(token_of(single->front()), token_of(single->back()));
    }
  }

  void read_template(const std::string& first, const std::string& last) {
    if (!first.empty()) {
      if (texts_["bos"].empty()) texts_["bos"] = first;
      add_["bos"] = first == texts_["bos"] || first == texts_["cls"];
      if (!add_["bos"]) warn_unknown(first, "first");
    }
    if (!last.empty()) {
      if (texts_["eos"].empty()) texts_["eos"] = last;
      if (last != texts_["eos"]) {
        texts_["eot"] = texts_["eos"];
        texts_["eos"] = last;
      }
      add_["eos"] = true;
    }
  }

  void warn_unknown(const std::string& token, std::string_view place) {
    warnings_.push_back(
        fmt::format("tokenizer.json puts {} {}, which is no token that GGUF has a setting for", quoted(token), place));
  }

  void read_add_flags() {
    for (const std::string_view kind : kAddKinds) {
      const json::value* stated = find_in(json_.config, fmt::format("add_{}_token", kind));
      if (stated == nullptr || !stated->is_bool()) continue;
      const auto [at, is_new] = add_.try_emplace(std::string(kind), stated->get_bool());
      if (!is_new && at->second != stated->get_bool()) {
        warnings_.push_back(
            fmt::format("tokenizer_config.json's add_{}_token is {}, but tokenizer.json does the "
                        "opposite; the latter is written",
                        kind, stated->get_bool()));
      }
    }
    // Without the key llama.cpp goes by the kind of BPE, which may differ from what the files do.
    if (vocabulary_.model == "gpt2") add_.try_emplace("bos", false);
  }

  void add_id(const SpecialKind& kind, GgufTokenizer& out) {
    if (kind.key.empty()) return;
    const std::optional<std::int64_t> id = id_of_kind(kind.name);
    if (!id) return;
    if (*id < 0 || std::cmp_greater_equal(*id, vocabulary_.tokens.size())) {
      warnings_.push_back(fmt::format("the {} token has the id {}, which is none of the {} tokens, and is left out",
                                      kind.name, *id, vocabulary_.tokens.size()));
      return;
    }
    out.keys.push_back({fmt::format("tokenizer.ggml.{}", kind.key), static_cast<std::uint32_t>(*id)});
  }

  [[nodiscard]] std::optional<std::int64_t> id_of_kind(std::string_view kind) const {
    const auto found = texts_.find(std::string(kind));
    const std::string text = found == texts_.end() ? "" : found->second;
    if (const auto added = added_id(text)) return added;
    const std::string name = fmt::format("{}_token_id", kind);
    const json::value* nested = find_in(config_, "text_config");
    const json::object empty;
    const json::object& text_config = nested == nullptr || !nested->is_object() ? empty : nested->get_object();
    for (const json::object* object : {&config_, &text_config, &json_.generation}) {
      if (const auto id = integer_in(*object, name, object == &json_.generation)) return id;
    }
    const auto word = text.empty() ? vocabulary_.tokens.end() : std::ranges::find(vocabulary_.tokens, text);
    if (word == vocabulary_.tokens.end()) return std::nullopt;
    return word - vocabulary_.tokens.begin();
  }

  [[nodiscard]] std::optional<std::int64_t> added_id(const std::string& text) const {
    const json::array* added = list_in(json_.tokenizer, "added_tokens");
    if (text.empty() || added == nullptr) return std::nullopt;
    for (const json::value& entry : *added) {
      if (entry.is_object() && text_in(entry.get_object(), "content") == text) {
        return integer_in(entry.get_object(), "id", false);
      }
    }
    return std::nullopt;
  }

  /// generation_config.json may list several ids, the model's own first.
  [[nodiscard]] static std::optional<std::int64_t> integer_in(const json::object& object, std::string_view name,
                                                              bool first_of_list) {
    const json::value* value = find_in(object, name);
    if (value != nullptr && first_of_list && value->is_array() && !value->get_array().empty()) {
      value = &value->get_array().front();
    }
    return value == nullptr || !value->is_int64() ? std::nullopt : std::optional<std::int64_t>(value->get_int64());
  }

  const json::object& config_;
  const GgufTokenizerJson& json_;
  const GgufVocabulary& vocabulary_;
  std::map<std::string, std::string> texts_;  ///< Text of each kind of special token.
  std::map<std::string, bool> add_;
  std::vector<std::string> warnings_;
};

/// Letters and digits as they are, all else as '_'.
std::string plain_name(std::string name) {
  std::ranges::replace_if(
      name, [](char c) { return !((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z')); }, '_');
  return name;
}

std::vector<GgufKey> template_list(const json::array& list) {
  std::vector<GgufKey> keys;
  std::vector<std::string> names;
  std::optional<std::string> main;
  for (const json::value& entry : list) {
    const json::object* fields = entry.if_object();
    const std::string name = fields == nullptr ? "" : plain_name(text_in(*fields, "name"));
    if (name.empty() || find_in(*fields, "template") == nullptr || std::ranges::count(names, name) > 0) continue;
    if (name == "default") {
      main = text_in(*fields, "template");
      continue;
    }
    names.push_back(name);
    keys.push_back({fmt::format("tokenizer.chat_template.{}", name), text_in(*fields, "template")});
  }
  if (!names.empty()) keys.push_back({"tokenizer.chat_templates", GgufArray(std::move(names))});
  if (main) keys.push_back({"tokenizer.chat_template", *main});
  return keys;
}

}  // namespace

GgufTokenizer gguf_special_tokens(const json::object& config, const GgufTokenizerJson& json,
                                  const GgufVocabulary& vocabulary) {
  return SpecialTokens(config, json, vocabulary).gather();
}

std::vector<GgufKey> gguf_chat_templates(const GgufTokenizerFiles& files, const GgufTokenizerJson& json) {
  const json::value* stated = find_in(json.config, "chat_template");
  if (stated != nullptr && stated->is_array()) return template_list(stated->get_array());
  std::string text = text_in(json.config, "chat_template");
  if (text.empty() && files.chat_template_jinja) text = *files.chat_template_jinja;
  if (text.empty() && files.chat_template_json) {
    const json::value root = parse_json(*files.chat_template_json, "chat_template.json");
    if (root.is_object()) text = text_in(root.get_object(), "chat_template");
  }
  if (text.empty()) return {};
  return {{"tokenizer.chat_template", text}};
}

}  // namespace halfquad
