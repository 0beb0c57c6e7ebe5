#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "io/file_system.h"
#include "launcher/environment.h"
#include "runtime/log_format.h"
#include "runtime/stop_flag.h"

namespace halfquad {

/// What a command may touch: built once in main, or by a test with its own streams and file system.
struct Context {
  FileSystem& fs;
  const StopFlag& stop;
  std::ostream& out;  ///< Results.
  std::ostream& err;  ///< The one line of an error.
  Environment environment;
  LogFormat log_format = LogFormat::kText;  ///< Of the line of an error.
};

}  // namespace halfquad
