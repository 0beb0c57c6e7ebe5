#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/communicator.h"

namespace halfquad {

/// Environment variables by name.
using Environment = std::map<std::string, std::string, std::less<>>;

/// `variables`: NAME=value strings, ended by a null pointer (the process's `environ`).
[[nodiscard]] Environment read_environment(const char* const* variables);

/// Who started this process as one of several.
struct Starter {
  std::string name;      ///< "mpirun" or "srun".
  std::string variable;  ///< The environment variable that says so.
  int ranks = 0;
};

/// Nothing when this process was started alone, or inside a batch job but not as one of several tasks of a step.
[[nodiscard]] std::optional<Starter> started_by(const Environment& environment);

/// The job this process was started into: by mpirun or srun, or alone. Throws kUsage when it is one of several
/// processes that do not see each other: they would all do the same job into the same output.
[[nodiscard]] std::unique_ptr<Communicator> join_job(const Environment& environment);

/// What to tell when MPI may fail to start, and end the process itself: this is the first of several tasks of an srun
/// that connects them by none of the ways known. Nothing otherwise.
[[nodiscard]] std::optional<std::string> connection_hint(const Environment& environment);

/// Throws kUsage when this process is one of several: for commands that run once.
void require_alone(const Environment& environment, std::string_view command);

}  // namespace halfquad
