#include "sharding/tokenizer/pattern.h"

#include <array>
#include <oniguruma.h>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/tokenizer/tokenizer_json.h"
#include "sharding/tokenizer/unicode.h"

namespace halfquad {
namespace {

const OnigUChar* bytes_of(std::string_view text) { return reinterpret_cast<const OnigUChar*>(text.data()); }

/// Oniguruma's sentence for an error; `details` as onig_new() gave them.
std::string sentence(int error, OnigErrorInfo* details) {
  std::array<OnigUChar, ONIG_MAX_ERROR_MESSAGE_LEN> text{};
  const int bytes = details == nullptr ? onig_error_code_to_str(text.data(), error)
                                       : onig_error_code_to_str(text.data(), error, details);
  return {reinterpret_cast<const char*>(text.data()), static_cast<std::size_t>(bytes)};
}

struct Match {
  std::size_t begin = 0, end = 0;
};

}  // namespace

class Pattern::Regex {
 public:
  explicit Regex(const std::string& expression) {
    OnigErrorInfo details{};
    const int error = onig_new(&regex_, bytes_of(expression), bytes_of(expression) + expression.size(),
                               ONIG_OPTION_NONE, ONIG_ENCODING_UTF8, ONIG_SYNTAX_ONIGURUMA, &details);
    if (error != ONIG_NORMAL) {
      refuse_file(kTokenizerJson, fmt::format("has the regular expression {}, which cannot be read: {}",
                                              quoted(expression), one_line(sentence(error, &details))));
    }
    limits_ = onig_new_match_param();
    constexpr unsigned long kMostSteps = 1UL << 30U;  // of one search over all of a text
    onig_set_retry_limit_in_search_of_match_param(limits_, kMostSteps);
    region_ = onig_region_new();
  }
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;
  ~Regex() {
    onig_region_free(region_, 1);
    onig_free_match_param(limits_);
    onig_free(regex_);
  }

  /// The first match that begins at `from` or later.
  [[nodiscard]] std::optional<Match> find(std::string_view text, std::size_t from) const {
    const OnigUChar* begin = bytes_of(text);
    const int found = onig_search_with_param(regex_, begin, begin + text.size(), begin + from, begin + text.size(),
                                             region_, ONIG_OPTION_NONE, limits_);
    if (found == ONIG_MISMATCH) return std::nullopt;
    if (found < 0) {
      refuse_file(kTokenizerJson, fmt::format("has a regular expression that failed on the text: {}",
                                              one_line(sentence(found, nullptr))));
    }
    return Match{static_cast<std::size_t>(region_->beg[0]), static_cast<std::size_t>(region_->end[0])};
  }

 private:
  OnigRegex regex_ = nullptr;
  OnigMatchParam* limits_ = nullptr;
  OnigRegion* region_ = nullptr;
};

namespace {

/// Gathers matches, and what lies between them.
class Parts {
 public:
  explicit Parts(std::string_view text) : text_(text) {}
  void add(const Match& match) {
    if (match.begin != end_) parts_.push_back({end_, match.begin, false});
    parts_.push_back({match.begin, match.end, true});
    end_ = match.end;
  }
  [[nodiscard]] std::vector<PatternPart> finish() {
    if (end_ != text_.size()) parts_.push_back({end_, text_.size(), false});
    return std::move(parts_);
  }

 private:
  std::string_view text_;
  std::size_t end_ = 0;
  std::vector<PatternPart> parts_;
};

}  // namespace

Pattern::Pattern(std::string literal, std::unique_ptr<const Regex> regex)
    : literal_(std::move(literal)), regex_(std::move(regex)) {}
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;
Pattern::~Pattern() = default;

Pattern Pattern::regex(const std::string& expression) { return {{}, std::make_unique<const Regex>(expression)}; }

Pattern Pattern::literal(std::string text) {
  if (text.empty()) refuse_file(kTokenizerJson, "looks for an empty text");
  return {std::move(text), nullptr};
}

Pattern Pattern::of_step(const boost::json::object& step) {
  const boost::json::object& pattern = need_object(step, "pattern");
  if (const auto* text = find_in(pattern, "String")) return literal(text_of(*text, kTokenizerJson, "a pattern"));
  if (const auto* text = find_in(pattern, "Regex")) return regex(text_of(*text, kTokenizerJson, "a pattern"));
  refuse_file(kTokenizerJson, "has a pattern that is neither \"String\" nor \"Regex\"");
}

std::vector<PatternPart> Pattern::parts_of(std::string_view text) const {
  if (text.empty()) return {{0, 0, false}};
  Parts parts(text);
  if (!literal_.empty()) {
    for (std::size_t at = text.find(literal_); at != std::string_view::npos;
         at = text.find(literal_, at + literal_.size())) {
      parts.add({at, at + literal_.size()});
    }
    return parts.finish();
  }
  std::optional<std::size_t> last_end;
  for (std::size_t from = 0; from <= text.size();) {
    const std::optional<Match> match = regex_->find(text, from);
    if (!match) break;
    if (match->begin == match->end && last_end == match->end) {  // an empty match right behind another is none
      from += from < text.size() ? character_bytes(text[from]) : 1;
      continue;
    }
    parts.add(*match);
    from = match->end;
    last_end = from;
  }
  return parts.finish();
}

}  // namespace halfquad
