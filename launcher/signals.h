#pragma once

#include "runtime/stop_flag.h"

namespace halfquad {

/// While it lives, the first SIGINT, SIGTERM or SIGUSR1 requests `stop`, and a second one ends the process at once with
/// 128 + its number. Batch systems send SIGUSR1 or SIGTERM ahead of a time limit. One at a time.
class SignalHandlers {
 public:
  explicit SignalHandlers(StopFlag& stop);
  ~SignalHandlers();  ///< Puts the default actions back.
  SignalHandlers(const SignalHandlers&) = delete;
  SignalHandlers& operator=(const SignalHandlers&) = delete;
};

}  // namespace halfquad
