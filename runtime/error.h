#pragma once

#include <cstdint>
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
  kDevice,       ///< An accelerator failed; its work can be done elsewhere.
  kInternal,     ///< A broken assumption inside halfquad.
};

/// Where in the code something happened. std::source_location's interface; Clang before 15 lacks the builtin that
/// libstdc++ needs for the real one.
class SourceLocation {
 public:
  static constexpr SourceLocation current(const char* file = __builtin_FILE(),
                                          const char* function = __builtin_FUNCTION(),
                                          std::uint_least32_t line = __builtin_LINE()) noexcept {
    SourceLocation here;
    here.file_ = file;
    here.function_ = function;
    here.line_ = line;
    return here;
  }

  [[nodiscard]] constexpr const char* file_name() const noexcept { return file_; }
  [[nodiscard]] constexpr const char* function_name() const noexcept { return function_; }
  [[nodiscard]] constexpr std::uint_least32_t line() const noexcept { return line_; }

 private:
  const char* file_ = "";
  const char* function_ = "";
  std::uint_least32_t line_ = 0;
};

/// The only exception type halfquad throws. `what()` is one sentence that names tensor, file and offset where known.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& what, SourceLocation where = SourceLocation::current());

  [[nodiscard]] ErrorCode code() const noexcept { return code_; }
  [[nodiscard]] const SourceLocation& where() const noexcept { return where_; }

 private:
  ErrorCode code_;
  SourceLocation where_;
};

}  // namespace halfquad
