#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace halfquad {

/// `text` as a JSON string, quotes included. Text that is not UTF-8 is escaped as by quoted() first.
[[nodiscard]] std::string json_string(std::string_view text);

/// "2026-11-29T22:05:03.123Z" for microseconds since the Unix epoch.
[[nodiscard]] std::string utc_time(std::int64_t unix_microseconds);

}  // namespace halfquad
