#pragma once

#include "runtime/error.h"

namespace halfquad {

inline constexpr int kExitDone = 0;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitBadInput = 3;
inline constexpr int kExitIo = 4;
inline constexpr int kExitOutOfMemory = 5;
inline constexpr int kExitMismatch = 6;
inline constexpr int kExitInternal = 70;
inline constexpr int kExitInterrupted = 75;  ///< EX_TEMPFAIL: a batch system may start the same command again.

/// Thrown by a rank whose job ended with an error that rank 0 reports: exits with `code` and without a word.
struct QuietExit {
  int code = kExitInternal;
};

/// The process exit code of an error. Part of the command-line interface: scripts act on it.
[[nodiscard]] constexpr int exit_code(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kUsage:
      return kExitUsage;
    case ErrorCode::kBadInput:
      return kExitBadInput;
    case ErrorCode::kIo:
      return kExitIo;
    case ErrorCode::kOutOfMemory:
      return kExitOutOfMemory;
    case ErrorCode::kMismatch:
      return kExitMismatch;
    case ErrorCode::kInterrupted:
      return kExitInterrupted;
    case ErrorCode::kDevice:
    case ErrorCode::kInternal:
      return kExitInternal;
  }
  return kExitInternal;
}

}  // namespace halfquad
