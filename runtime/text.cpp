#include "runtime/text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include <fmt/format.h>

#include "runtime/checked.h"

namespace halfquad {
namespace {

constexpr std::size_t kQuotedBytes = 200;

struct CodePoint {
  std::size_t bytes = 0;  // 0: not well-formed
  char32_t value = 0;
};

// The well-formed sequence at the start of `text`, by the table 3-7 of the Unicode standard: no overlong forms, no
// surrogates, nothing above U+10FFFF. @pre text is not empty.
CodePoint decode_utf8(std::string_view text) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {};
  const std::size_t bytes = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  if (text.size() < bytes) return {};
  unsigned low = 0x80;
  unsigned high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  char32_t value = lead & (0xFFU >> (bytes + 1));
  for (std::size_t i = 1; i < bytes; ++i) {
    if (byte(i) < low || byte(i) > high) return {};
    value = (value << 6U) | (byte(i) & 0x3FU);
    low = 0x80;
    high = 0xBF;
  }
  return {bytes, value};
}

// Code points beyond ASCII that move the cursor, break the line or reorder what is shown.
bool is_unsafe(char32_t value) noexcept {
  return (value >= 0x80 && value <= 0x9F) || value == 0x061C || value == 0x200E || value == 0x200F ||
         (value >= 0x2028 && value <= 0x202E) || (value >= 0x2066 && value <= 0x2069) || value == 0xFEFF;
}

// Appends the first character of `text`, escaped where it has to be, and returns how many bytes it took.
std::size_t append_escaped(std::string& out, std::string_view text) {
  const CodePoint point = decode_utf8(text);
  if (point.bytes == 0) {
    out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text.front()));
    return 1;
  }
  if (point.value == '\n') {
    out += "\\n";
  } else if (point.value == '\r') {
    out += "\\r";
  } else if (point.value == '\t') {
    out += "\\t";
  } else if (point.value < 0x20 || point.value == 0x7F) {
    out += fmt::format("\\x{:02x}", static_cast<unsigned>(point.value));
  } else if (is_unsafe(point.value)) {
    out += fmt::format("\\u{:04x}", static_cast<unsigned>(point.value));
  } else {
    out += text.substr(0, point.bytes);
  }
  return point.bytes;
}

char lower(char c) noexcept { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

// What one unit of `suffix` is in bytes; nothing for an unknown suffix.
std::optional<std::uint64_t> unit_bytes(std::string_view suffix) {
  std::string unit(suffix);
  std::transform(unit.begin(), unit.end(), unit.begin(), lower);
  if (unit.empty() || unit == "b") return 1;
  constexpr std::string_view kPrefixes = "kmgtp";
  const std::size_t power = kPrefixes.find(unit.front());
  if (power == std::string_view::npos) return std::nullopt;
  const std::string_view rest = std::string_view(unit).substr(1);
  if (!rest.empty() && rest != "b" && rest != "ib") return std::nullopt;
  std::uint64_t bytes = 1;
  for (std::size_t i = 0; i <= power; ++i) bytes *= rest == "b" ? 1000U : 1024U;
  return bytes;
}

std::string_view leading_digits(std::string_view text) noexcept {
  return text.substr(0, std::min(text.find_first_not_of("0123456789"), text.size()));
}

std::optional<std::uint64_t> parse_digits(std::string_view digits) noexcept {
  if (digits.empty()) return std::nullopt;
  std::optional<std::uint64_t> value = 0;
  for (const char c : digits) {
    value = checked_mul<std::uint64_t>(*value, 10);
    if (value) value = checked_add<std::uint64_t>(*value, static_cast<std::uint64_t>(c - '0'));
    if (!value) return std::nullopt;
  }
  return value;
}

// floor(0.digits * unit), exactly: Horner from the last digit, each division rounding down.
std::uint64_t fraction_of(std::string_view digits, std::uint64_t unit) noexcept {
  std::uint64_t value = 0;
  for (auto digit = digits.rbegin(); digit != digits.rend(); ++digit) {
    value = (static_cast<std::uint64_t>(*digit - '0') * unit + value) / 10;
  }
  return value;
}

}  // namespace

std::string quoted(std::string_view name) {
  std::string out = "\"";
  std::size_t at = 0;
  while (at < name.size()) {
    const std::size_t bytes = std::max<std::size_t>(decode_utf8(name.substr(at)).bytes, 1);
    if (at + bytes > kQuotedBytes) break;
    if (name[at] == '"' || name[at] == '\\') out += '\\';
    at += append_escaped(out, name.substr(at));
  }
  out += at < name.size() ? "\"..." : "\"";
  return out;
}

std::string one_line(std::string_view message) {
  std::string out;
  out.reserve(message.size());
  while (!message.empty()) message.remove_prefix(append_escaped(out, message));
  return out;
}

std::string human_bytes(std::uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  constexpr std::array kUnits{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  // 1023.95 and more would be printed as 1024.0 of the smaller unit.
  while (value >= 1023.95 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string human_duration(double seconds) {
  constexpr double kLongest = 1e12;
  if (!(seconds >= 0 && seconds < kLongest)) return "--:--";
  const std::int64_t total = std::llround(seconds);
  const std::int64_t hours = total / 3600;
  const std::int64_t minutes = total / 60 % 60;
  if (hours == 0) return fmt::format("{:02}:{:02}", minutes, total % 60);
  return fmt::format("{:02}:{:02}:{:02}", hours, minutes, total % 60);
}

std::optional<std::uint64_t> parse_bytes(std::string_view text) {
  const std::string_view whole = leading_digits(text);
  text.remove_prefix(whole.size());
  std::string_view fraction;
  if (text.starts_with('.')) {
    fraction = leading_digits(text.substr(1));
    if (fraction.empty()) return std::nullopt;
    text.remove_prefix(1 + fraction.size());
  }
  // As human_bytes writes it: "1.5 KiB".
  if (text.size() > 1 && text.front() == ' ') text.remove_prefix(1);
  const std::optional<std::uint64_t> unit = unit_bytes(text);
  const std::optional<std::uint64_t> value = parse_digits(whole);
  if (!unit || !value || (*unit == 1 && !fraction.empty())) return std::nullopt;
  const std::optional<std::uint64_t> bytes = checked_mul(*value, *unit);
  if (!bytes) return std::nullopt;
  return checked_add(*bytes, fraction_of(fraction, *unit));
}

bool is_utf8(std::string_view text) noexcept {
  while (!text.empty()) {
    const std::size_t bytes = decode_utf8(text).bytes;
    if (bytes == 0) return false;
    text.remove_prefix(bytes);
  }
  return true;
}

}  // namespace halfquad
