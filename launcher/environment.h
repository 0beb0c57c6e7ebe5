#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>

namespace halfquad {

/// Environment variables by name.
using Environment = std::map<std::string, std::string, std::less<>>;

/// `variables`: NAME=value strings, ended by a null pointer (the process's `environ`).
[[nodiscard]] Environment read_environment(const char* const* variables);

/// Why this process must not run: it is one of several that mpirun or srun started, which would all do the same job
/// into the same output. Nothing when it was started alone, or inside a batch job but not as one of several tasks of a
/// step.
[[nodiscard]] std::optional<std::string> several_ranks(const Environment& environment);

}  // namespace halfquad
