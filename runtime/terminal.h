#pragma once

namespace halfquad {

/// Whether standard error is a terminal that understands escape sequences.
[[nodiscard]] bool stderr_is_terminal();

/// Columns of the terminal behind standard error; 80 when there is none to ask.
[[nodiscard]] int terminal_columns();

/// Moves to the start of the terminal's line and clears it: a message and a progress bar take turns on it.
inline constexpr char kClearLine[] = "\r\x1b[K";

}  // namespace halfquad
