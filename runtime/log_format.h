#pragma once

#include <cstdint>
#include <string_view>

namespace halfquad {

/// How lines on standard error look.
enum class LogFormat : std::uint8_t {
  kText,  ///< For people.
  kJson,  ///< One JSON object a line, with "time" and "level", for programs that collect logs.
};

/// "text", "json"; throws kUsage for another name.
[[nodiscard]] LogFormat log_format_from_name(std::string_view name);

}  // namespace halfquad
