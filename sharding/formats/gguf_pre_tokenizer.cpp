#include <algorithm>
#include <array>
#include <string>

#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <fmt/format.h>

#include "sharding/formats/gguf_vocabulary.h"
#include "sharding/tokenizer/tokenizer_json.h"

namespace halfquad {
namespace {

namespace json = boost::json;

// The patterns by which tokenizers divide text, with line ends spelled "\r" and "\n".
constexpr std::string_view kThreeDigits =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kOneDigit =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kManyDigits =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kMarks =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kCases =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kCasesOneDigit =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kDigitGroups = R"(\p{N}{1,3})";
constexpr std::string_view kKanji = "[一-龥\u3040-ゟ゠-ヿ]+";
constexpr std::string_view kPunctuated =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kLineEnds = R"([\r\n])";
/// How the second of DeepSeek's early patterns begins; the letters that follow fill half a page.
constexpr std::string_view kDeepseekLetters = "\\s?[A-Za-zµÀ-Ö";
constexpr std::string_view kLetters = R"(\s?\p{L}+)";
// Steps that have no pattern.
constexpr std::string_view kDigitsStep = "digits";
constexpr std::string_view kByteStep = "bytes";
constexpr std::string_view kOther = "?";

/// The pattern of a step that cuts text into its matches and what lies between; kOther for other steps.
std::string pattern_of(const json::object& step) {
  const json::value* pattern = step.if_contains("pattern");
  if (pattern == nullptr || !pattern->is_object()) return std::string(kOther);
  const std::string behavior = text_in(step, "behavior");
  // Whatever these patterns do not match is nothing, so that removing it changes nothing.
  const bool inverted = flag_in(step, "invert", false);
  if ((behavior != "Isolated" || inverted) && (behavior != "Removed" || !inverted)) return std::string(kOther);
  std::string out;
  for (const char c : text_in(pattern->get_object(), "Regex")) {
    if (c == '\r') {
      out += "\\r";
    } else if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

void add_step(const json::value& value, std::vector<std::string>& steps) {
  const json::object* step = value.if_object();
  const std::string type = step == nullptr ? "" : text_in(*step, "type");
  if (type == "Sequence") {
    const json::value* parts = step->if_contains("pretokenizers");
    if (parts == nullptr || !parts->is_array()) return;
    for (const json::value& part : parts->get_array()) add_step(part, steps);
  } else if (type == "Split") {
    steps.push_back(pattern_of(*step));
  } else if (type == "Digits" && flag_in(*step, "individual_digits", false)) {
    steps.emplace_back(kDigitsStep);
  } else if (type == "ByteLevel" && !flag_in(*step, "add_prefix_space", true)) {
    if (flag_in(*step, "use_regex", true)) steps.emplace_back(kByteStep);
  } else {
    steps.emplace_back(kOther);
  }
}

}  // namespace

std::optional<std::string> gguf_pre_tokenizer(const json::object& tokenizer) {
  std::vector<std::string> steps;
  if (const json::value* value = tokenizer.if_contains("pre_tokenizer"); value != nullptr) add_step(*value, steps);
  const auto are = [&](std::initializer_list<std::string_view> wanted) { return std::ranges::equal(steps, wanted); };
  if (are({kThreeDigits})) {
    const json::value* model = tokenizer.if_contains("model");
    const bool whole = model != nullptr && model->is_object() && flag_in(model->get_object(), "ignore_merges", false);
    return whole ? "llama-bpe" : "dbrx";  // the one takes a token's whole text before any merge
  }
  if (are({kOneDigit})) return "qwen2";
  if (are({kMarks})) return "qwen35";
  if (are({kCases})) return "gpt-4o";
  if (are({kCasesOneDigit})) return "tekken";
  if (are({kDigitGroups, kManyDigits})) return "minicpm5";
  if (are({kDigitGroups, kKanji, kPunctuated})) return "deepseek-v3";
  if (are({kDigitsStep, kByteStep})) return "smollm";
  if (are({kByteStep})) return "gpt-2";
  if (steps.size() > 2 && steps[0] == kLineEnds && steps.back() == kDigitsStep) {
    if (steps[1].starts_with(kDeepseekLetters)) return "deepseek-llm";
    if (steps[1] == kLetters) return "deepseek-coder";
  }
  return std::nullopt;
}

}  // namespace halfquad
