#pragma once

#include <string>
#include <string_view>

#include <boost/json/value.hpp>

namespace halfquad {

/// Parses untrusted JSON strictly: UTF-8 only, no duplicate keys in any object, no trailing text, depth <= 64, no NUL
/// in keys. Throws kBadInput: "<what>: <reason> at byte <offset>".
[[nodiscard]] boost::json::value parse_json(std::string_view text, std::string_view what);

/// `value` with two-space indentation, keys in their order, and a final newline: for files people read.
[[nodiscard]] std::string pretty_json(const boost::json::value& value);

}  // namespace halfquad
