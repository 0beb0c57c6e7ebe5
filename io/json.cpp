#include "io/json.h"

#include <charconv>
#include <cmath>
#include <cstddef>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value_stack.hpp>
#include <fmt/format.h>

#include "runtime/error.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::size_t kMaxDepth = 64;
constexpr int kIndent = 2;

/// Builds the value from the parser's events and does what Boost's own handler does not: it keeps the keys of each open
/// object and stops at a repeated one with `problem` set, and it rounds decimal numbers exactly (Boost's own conversion
/// is off by one unit in the last place now and then, which would alter a copied configuration).
class StrictHandler {
 public:
  static constexpr std::size_t max_object_size = std::size_t(-1);
  static constexpr std::size_t max_array_size = std::size_t(-1);
  static constexpr std::size_t max_key_size = std::size_t(-1);
  static constexpr std::size_t max_string_size = std::size_t(-1);

  StrictHandler() { values_.reset(); }

  // The names and signatures below are those that basic_parser asks for.
  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }
  bool on_object_begin(json::error_code&) {
    keys_.emplace_back();
    return true;
  }
  bool on_object_end(std::size_t count, json::error_code&) {
    keys_.pop_back();
    values_.push_object(count);
    return true;
  }
  bool on_array_begin(json::error_code&) { return true; }
  bool on_array_end(std::size_t count, json::error_code&) {
    values_.push_array(count);
    return true;
  }
  bool on_key_part(json::string_view part, std::size_t, json::error_code&) {
    text_.append(part.data(), part.size());
    return true;
  }
  bool on_key(json::string_view part, std::size_t, json::error_code& error) {
    const std::string key = finish_text(part);
    if (key.find('\0') != std::string::npos) {
      problem = fmt::format("NUL in the key {}", quoted(key));
    } else if (!keys_.back().insert(key).second) {
      problem = fmt::format("duplicate key {}", quoted(key));
    } else {
      values_.push_key(key);
      return true;
    }
    error = json::error::exception;
    return false;
  }
  bool on_string_part(json::string_view part, std::size_t, json::error_code&) {
    values_.push_chars(part);
    return true;
  }
  bool on_string(json::string_view part, std::size_t, json::error_code&) {
    values_.push_string(part);
    return true;
  }
  bool on_number_part(json::string_view part, json::error_code&) {
    text_.append(part.data(), part.size());
    return true;
  }
  bool on_int64(std::int64_t number, json::string_view, json::error_code&) {
    text_.clear();
    values_.push_int64(number);
    return true;
  }
  bool on_uint64(std::uint64_t number, json::string_view, json::error_code&) {
    text_.clear();
    values_.push_uint64(number);
    return true;
  }
  bool on_double(double number, json::string_view part, json::error_code&) {
    const std::string digits = finish_text(part);
    // Leaves `number` as it is, an infinity or a zero, when the digits are out of a double's range.
    std::from_chars(digits.data(), digits.data() + digits.size(), number);
    values_.push_double(number);
    return true;
  }
  bool on_bool(bool truth, json::error_code&) {
    values_.push_bool(truth);
    return true;
  }
  bool on_null(json::error_code&) {
    values_.push_null();
    return true;
  }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }

  [[nodiscard]] json::value release() { return values_.release(); }

  std::string problem;

 private:
  [[nodiscard]] std::string finish_text(json::string_view last_part) {
    text_.append(last_part.data(), last_part.size());
    return std::exchange(text_, {});
  }

  json::value_stack values_;
  std::vector<std::unordered_set<std::string>> keys_;
  std::string text_;  // the parts so far of a key or a number
};

[[noreturn]] void refuse(std::string_view what, std::string_view reason, std::size_t offset) {
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {} at byte {}", what, reason, offset));
}

/// Boost would write 0.1 as 1E-1: correct, but not for people. Here the shortest digits that read back the same.
void append_number(double number, std::string& out) {
  if (std::isnan(number)) {
    out += "null";
  } else if (std::isinf(number)) {
    out += number < 0 ? "-1e99999" : "1e99999";  // what readers of JSON turn back into an infinity
  } else {
    const std::string digits = fmt::format("{}", number);
    out += digits;
    // Readers of configurations tell 8.0 from 8.
    if (digits.find_first_of(".e") == std::string::npos) out += ".0";
  }
}

void append_pretty(const json::value& value, int depth, std::string& out);

void append_line_start(int depth, std::string& out) {
  out += '\n';
  out.append(static_cast<std::size_t>(depth * kIndent), ' ');
}

void append_pretty(const json::object& object, int depth, std::string& out) {
  out += '{';
  bool first = true;
  for (const auto& [key, value] : object) {
    if (!first) out += ',';
    first = false;
    append_line_start(depth + 1, out);
    out += json::serialize(json::string_view(key));
    out += ": ";
    append_pretty(value, depth + 1, out);
  }
  if (!first) append_line_start(depth, out);
  out += '}';
}

void append_pretty(const json::array& array, int depth, std::string& out) {
  out += '[';
  bool first = true;
  for (const json::value& value : array) {
    if (!first) out += ',';
    first = false;
    append_line_start(depth + 1, out);
    append_pretty(value, depth + 1, out);
  }
  if (!first) append_line_start(depth, out);
  out += ']';
}

void append_pretty(const json::value& value, int depth, std::string& out) {
  if (value.is_object()) {
    append_pretty(value.get_object(), depth, out);
  } else if (value.is_array()) {
    append_pretty(value.get_array(), depth, out);
  } else if (value.is_double()) {
    append_number(value.get_double(), out);
  } else {
    out += json::serialize(value);
  }
}

}  // namespace

json::value parse_json(std::string_view text, std::string_view what) {
  json::parse_options options;
  options.max_depth = kMaxDepth;
  json::basic_parser<StrictHandler> parser(options);
  json::error_code error;
  const std::size_t used = parser.write_some(false, text.data(), text.size(), error);
  if (!parser.handler().problem.empty()) refuse(what, parser.handler().problem, used);
  if (error == json::error::too_deep) refuse(what, fmt::format("nested deeper than {} levels", kMaxDepth), used);
  if (error == json::error::incomplete) refuse(what, "the JSON text ends early", text.size());
  if (error) refuse(what, "malformed JSON (" + error.message() + ")", used);
  if (used < text.size()) refuse(what, "text after the end of the JSON value", used);
  return parser.handler().release();
}

std::string pretty_json(const json::value& value) {
  std::string out;
  append_pretty(value, 0, out);
  out += '\n';
  return out;
}

}  // namespace halfquad
