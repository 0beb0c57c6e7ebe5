#include "launcher/help_formatter.h"

#include <algorithm>
#include <cstddef>

#include <CLI/CLI.hpp>

namespace halfquad {
namespace {

constexpr std::size_t kNameColumns = 28;
constexpr std::size_t kDescriptionColumns = 100 - kNameColumns;

/// `text` with line ends instead of some spaces.
std::string wrap(const std::string& text) {
  std::string wrapped;
  std::size_t column = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::size_t length = end - begin;
    if (column > 0 && column + 1 + length > kDescriptionColumns) {
      wrapped += '\n';
      column = 0;
    } else if (column > 0) {
      wrapped += ' ';
      ++column;
    }
    wrapped.append(text, begin, length);
    column += length;
    begin = end + 1;
  }
  return wrapped;
}

}  // namespace

HelpFormatter::HelpFormatter() { column_width(kNameColumns); }

std::string HelpFormatter::make_option_opts(const CLI::Option* option) const {
  const std::string type = option->get_type_size() == 0 ? "" : option->get_type_name();
  return type.empty() ? "" : " " + type;
}

std::string HelpFormatter::make_option_desc(const CLI::Option* option) const {
  const std::string& value = option->get_default_str();
  return wrap(option->get_description() + (value.empty() ? "" : " (default: " + value + ")"));
}

CLI::Validator quiet(CLI::Validator validator) { return validator.description(""); }

}  // namespace halfquad
