#pragma once

#include <cassert>

#include "runtime/error.h"

/// Throws halfquad::Error(code, message) unless `cond` holds. `message` is evaluated only on failure; `cond` always.
#define HALFQUAD_REQUIRE(cond, code, message)                        \
  do {                                                               \
    if (!(cond)) [[unlikely]] {                                      \
      throw ::halfquad::Error(::halfquad::ErrorCode::code, message); \
    }                                                                \
  } while (false)

/// A check for hot loops, compiled in debug builds only.
#define HALFQUAD_DCHECK(cond) assert(cond)
