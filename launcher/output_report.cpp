#include "launcher/output_report.h"

#include <algorithm>
#include <cctype>
#include <string_view>

#include <fmt/format.h>

#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr char kUndefined[] = "not defined";
constexpr double kLeastFixed = 1e-3;  // smaller errors would lose their digits

bool is_plain(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
         std::string_view("-_./=:,+@%").find(c) != std::string_view::npos;
}

}  // namespace

std::string error_text(const std::optional<double>& error) {
  if (!error) return kUndefined;
  if (*error == 0) return "0";
  return *error < kLeastFixed || *error >= 1000 ? fmt::format("{:.3g}", *error) : fmt::format("{:.5f}", *error);
}

std::string decibel_text(const std::optional<double>& sqnr) {
  return sqnr ? fmt::format("{:.1f} dB", *sqnr) : kUndefined;
}

std::string percent_text(double part, double whole) {
  return whole > 0 ? fmt::format("{:.1f} %", 100 * part / whole) : kUndefined;
}

std::string change_text(const std::optional<double>& change) {
  return change ? fmt::format("{:+.1f} %", 100 * *change) : kUndefined;
}

std::string bits_text(double bits) { return fmt::format("{:.3f}", bits); }

std::string seconds_text(double seconds) {
  return seconds < 60 ? fmt::format("{:.2f} s", seconds) : human_duration(seconds);
}

std::string shell_text(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += ' ';
    if (!word.empty() && std::ranges::all_of(word, is_plain)) {
      text += word;
      continue;
    }
    text += '\'';
    for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
    text += '\'';
  }
  return text;
}

std::string what_it_is(const OutputReport& output) {
  const std::vector<SettingsGroup>& settings = output.view.settings;
  std::string text = output.file().format;
  if (settings.empty()) return text;
  text += (text.empty() ? "" : ": ") + settings.front().text;
  const std::size_t others = settings.size() - 1;
  if (others > 0) text += fmt::format(" and {} other setting{}", others, others == 1 ? "" : "s");
  return text;
}

}  // namespace halfquad
