#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "runtime/error.h"

namespace halfquad::test {

/// Runs `call` and gives back the Error it throws; a test failure, and an Error of kInternal, when it throws none.
template <class Call>
Error error_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error was thrown";
  return {ErrorCode::kInternal, "nothing was thrown"};
}

/// `call` must throw Error with `code` and a one-line message that holds every one of `parts`.
template <class Call>
void expect_error(ErrorCode code, std::initializer_list<std::string_view> parts, Call call) {
  try {
    call();
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    for (const std::string_view part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << "no \"" << part << "\" in: " << message;
    }
    return;
  }
  ADD_FAILURE() << "no error was thrown; expected one that says \"" << (parts.size() > 0 ? *parts.begin() : "") << "\"";
}

}  // namespace halfquad::test
