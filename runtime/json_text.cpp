#include "runtime/json_text.h"

#include <ctime>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "runtime/text.h"

namespace halfquad {

std::string json_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : is_utf8(text) ? std::string(text) : quoted(text)) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string utc_time(std::int64_t unix_microseconds) {
  constexpr std::int64_t kPerSecond = 1'000'000;
  const auto seconds = static_cast<std::time_t>(unix_microseconds / kPerSecond);
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z", fmt::gmtime(seconds), unix_microseconds % kPerSecond / 1000);
}

}  // namespace halfquad
