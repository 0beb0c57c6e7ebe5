#pragma once

#include <gmock/gmock.h>

#include "runtime/error.h"

namespace halfquad {

/// Runs `action` and gives back the Error it throws; a test failure, and an Error of kInternal, when it throws none.
template <class Action>
Error error_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "expected a halfquad::Error";
  return {ErrorCode::kInternal, "nothing was thrown"};
}

}  // namespace halfquad
