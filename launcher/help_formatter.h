#pragma once

#include <string>

#include <CLI/App.hpp>
#include <CLI/Formatter.hpp>

namespace halfquad {

/// Help as people read it: an option's value and its default in words, lines that fit a terminal.
class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter();
  [[nodiscard]] std::string make_option_opts(const CLI::Option* option) const override;
  [[nodiscard]] std::string make_option_desc(const CLI::Option* option) const override;
};

/// `validator` without its own words in the help; the option's description says what is allowed.
[[nodiscard]] CLI::Validator quiet(CLI::Validator validator);

}  // namespace halfquad
