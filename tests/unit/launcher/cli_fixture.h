#pragma once

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io/posix_file_system.h"
#include "launcher/cli.h"
#include "tests/support/temp_dir.h"

namespace halfquad::test {

/// What one start of the program did.
struct Outcome {
  int code = -1;
  std::string out, err;
};

/// Starts the program in this process, below a directory of its own.
class CliTest : public ::testing::Test {
 protected:
  Outcome run(const std::vector<std::string>& arguments) { return run_on(*files_, arguments); }

  Outcome run_on(FileSystem& files, const std::vector<std::string>& arguments) {
    std::ostringstream out, err;
    const int code = run_cli(arguments, Context{files, stop_, out, err, environment_});
    return {code, out.str(), err.str()};
  }

  /// Runs with an error expected: nothing but one line on the error stream that begins as users know it.
  Outcome fail(const std::vector<std::string>& arguments) {
    Outcome outcome = run(arguments);
    expect_error_line(outcome);
    return outcome;
  }

  static void expect_error_line(const Outcome& outcome) {
    EXPECT_NE(outcome.code, 0) << outcome.out;
    EXPECT_EQ(outcome.err.rfind("halfquad: error: ", 0), 0U) << outcome.err;
    EXPECT_EQ(outcome.err.find('\n'), outcome.err.size() - 1) << outcome.err;
  }

  [[nodiscard]] std::string path(const std::string& name) const { return (directory_.path() / name).string(); }

  std::unique_ptr<FileSystem> files_ = make_posix_file_system();
  TempDir directory_;
  StopFlag stop_;
  Environment environment_;
};

}  // namespace halfquad::test
