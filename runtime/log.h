#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "runtime/log_format.h"

namespace halfquad {

enum class LogLevel { kTrace, kDebug, kInfo, kWarn, kError, kOff };

/// Messages for people, on standard error, one line each. Thread-safe. Constructed in main and passed down;
/// a message is dropped when its level is below the log's.
class Log {
 public:
  explicit Log(LogLevel level, LogFormat format = LogFormat::kText);
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  void debug(std::string_view message);
  void info(std::string_view message);
  void warn(std::string_view message);
  void error(std::string_view message);

  [[nodiscard]] LogLevel level() const noexcept { return level_; }

 private:
  struct Impl;
  LogLevel level_;
  std::unique_ptr<Impl> impl_;
};

/// "trace", "debug", "info", "warn", "error", "off"; throws kUsage for another name.
[[nodiscard]] LogLevel log_level_from_name(std::string_view name);

/// A message as one JSON object without newline; `more`: further members, such as R"("exit_code":4)", or nothing.
[[nodiscard]] std::string json_log_line(std::string_view level, std::string_view message, std::string_view more = {});

}  // namespace halfquad
