#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace halfquad {

/// `name` in double quotes with control characters, quotes, backslashes and invalid UTF-8 escaped (\n, \x1b), cut
/// after 200 bytes with "..." behind the closing quote: names from files reach terminals and logs only through this.
[[nodiscard]] std::string quoted(std::string_view name);

// A std::string's own namespace offers std::quoted, which would be the better match; the overloads for strings are as
// good and win. The last keeps a literal from being ambiguous between them.
[[nodiscard]] inline std::string quoted(const std::string& name) { return quoted(std::string_view(name)); }
[[nodiscard]] inline std::string quoted(std::string& name) { return quoted(std::string_view(name)); }
[[nodiscard]] inline std::string quoted(const char* name) { return quoted(std::string_view(name)); }

/// `message` with control characters and invalid UTF-8 escaped as in quoted(), so that it stays one line.
[[nodiscard]] std::string one_line(std::string_view message);

/// 1536 -> "1.5 KiB". Powers of 1024.
[[nodiscard]] std::string human_bytes(std::uint64_t bytes);

/// 93784 s -> "26:03:04"; below an hour "03:04".
[[nodiscard]] std::string human_duration(double seconds);

/// "512MiB", "5GB", "1.5g", "4096": bytes. KB/MB/GB/TB are powers of 1000; K/M/G/T and KiB/... powers of 1024.
/// Case is ignored. Nothing when the text is not a size or does not fit 64 bits.
[[nodiscard]] std::optional<std::uint64_t> parse_bytes(std::string_view text);

/// Whether `text` is well-formed UTF-8.
[[nodiscard]] bool is_utf8(std::string_view text) noexcept;

}  // namespace halfquad
