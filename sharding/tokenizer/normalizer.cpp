#include "sharding/tokenizer/normalizer.h"

#include <array>
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

constexpr std::array<std::pair<std::string_view, NormalForm>, 4> kForms = {{
    {"NFC", NormalForm::kC},
    {"NFD", NormalForm::kD},
    {"NFKC", NormalForm::kKC},
    {"NFKD", NormalForm::kKD},
}};

NormalizerStep replace_step(const json::object& step) {
  const auto pattern = std::make_shared<const Pattern>(Pattern::of_step(step));
  return [pattern, content = text_in(step, "content")](const std::string& text) {
    std::string out;
    out.reserve(text.size());
    for (const PatternPart& part : pattern->parts_of(text)) {
      out += part.is_match ? content : text.substr(part.begin, part.end - part.begin);
    }
    return out;
  };
}

NormalizerStep prepend_step(const json::object& step) {
  return [front = text_in(step, "prepend")](const std::string& text) { return text.empty() ? text : front + text; };
}

void add_steps(const json::value& value, std::vector<NormalizerStep>& steps) {
  const json::object* step = value.if_object();
  const std::string type = step == nullptr ? "" : text_in(*step, "type");
  for (const auto& [name, form] : kForms) {
    if (type != name) continue;
    steps.emplace_back([form = form](const std::string& text) { return normal_form(text, form); });
    return;
  }
  if (type == "Sequence") {
    const json::value* parts = find_in(*step, "normalizers");
    if (parts == nullptr || !parts->is_array()) refuse_file(kTokenizerJson, "has a Sequence without \"normalizers\"");
    for (const json::value& part : parts->get_array()) add_steps(part, steps);
  } else if (type == "Lowercase") {
    steps.emplace_back([](const std::string& text) { return lower_case(text); });
  } else if (type == "Prepend") {
    steps.push_back(prepend_step(*step));
  } else if (type == "Replace") {
    steps.push_back(replace_step(*step));
  } else {
    refuse_file(kTokenizerJson,
                fmt::format("has the normalizer {}, which halfquad does not know; make the token numbers "
                            "by other means and give them as --tokens-file",
                            quoted(type)));
  }
}

}  // namespace

std::vector<NormalizerStep> parse_normalizer(const json::object& tokenizer) {
  std::vector<NormalizerStep> steps;
  if (const json::value* value = find_in(tokenizer, "normalizer")) add_steps(*value, steps);
  return steps;
}

std::string normalized(const std::vector<NormalizerStep>& steps, std::string text) {
  for (const NormalizerStep& step : steps) text = step(std::move(text));
  return text;
}

}  // namespace halfquad
