#pragma once

#include <source_location>
#include <stdexcept>
#include <string>

namespace halfquad {

/// What went wrong, in the terms a caller can act on. Each code is one process exit code (launcher/exit_code.h).
enum class ErrorCode : int {
  kUsage,        ///< The request itself is wrong: an unknown option, a rule that matches nothing.
  kBadInput,     ///< A file's content is not what its format demands.
  kIo,           ///< The operating system refused or lost data: disk full, short file, no permission.
  kOutOfMemory,  ///< A budget or the machine's memory is too small for the job.
  kMismatch,     ///< Verification found bytes or values that differ.
  kInterrupted,  ///< A signal asked for a stop; finished work is kept where the command can continue.
  kInternal,     ///< A broken assumption inside halfquad.
};

/// The only exception type halfquad throws. `what()` is one sentence that names tensor, file and offset where known.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& what, std::source_location where = std::source_location::current());

  [[nodiscard]] ErrorCode code() const noexcept { return code_; }
  [[nodiscard]] const std::source_location& where() const noexcept { return where_; }

 private:
  ErrorCode code_;
  std::source_location where_;
};

}  // namespace halfquad
