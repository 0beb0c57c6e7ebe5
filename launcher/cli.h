#pragma once

#include <string>
#include <vector>

#include "launcher/context.h"
#include "runtime/error.h"

namespace halfquad {

/// The whole program: parses `arguments` (without the program's name), runs the command and returns the exit code.
/// Throws nothing; an error is one line on context.err.
[[nodiscard]] int run_cli(const std::vector<std::string>& arguments, const Context& context) noexcept;

/// Writes the one line of an error; returns the exit code that goes with it.
int report_error(const Context& context, const Error& error);

}  // namespace halfquad
