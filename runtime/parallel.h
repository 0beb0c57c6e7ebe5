#pragma once

#include <cstdint>
#include <functional>

#include "runtime/stop_flag.h"

namespace halfquad {

/// Calls body(worker, index) for every index in [0, count) from `threads` threads, indices handed out in order. The
/// first exception stops the hand-out and is rethrown when all workers have ended; a requested stop throws
/// kInterrupted.
void parallel_for(int threads, std::int64_t count, const StopFlag& stop,
                  const std::function<void(int worker, std::int64_t index)>& body);

}  // namespace halfquad
