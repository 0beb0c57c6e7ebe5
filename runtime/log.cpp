#include "runtime/log.h"

#include <array>
#include <utility>

#include <fmt/format.h>
#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>

#include "runtime/error.h"
#include "runtime/json_text.h"
#include "runtime/terminal.h"
#include "runtime/text.h"
#include "runtime/trace.h"

namespace halfquad {
namespace {

struct LevelRow {
  LogLevel level;
  spdlog::level::level_enum sink_level;
  std::string_view name;
  std::string_view colour;
};

constexpr std::array kLevels{
    LevelRow{LogLevel::kTrace, spdlog::level::trace, "trace", "\x1b[2m"},
    LevelRow{LogLevel::kDebug, spdlog::level::debug, "debug", "\x1b[36m"},
    LevelRow{LogLevel::kInfo, spdlog::level::info, "info", "\x1b[32m"},
    LevelRow{LogLevel::kWarn, spdlog::level::warn, "warn", "\x1b[1;33m"},
    LevelRow{LogLevel::kError, spdlog::level::err, "error", "\x1b[1;31m"},
    LevelRow{LogLevel::kOff, spdlog::level::off, "off", ""},
};

spdlog::level::level_enum sink_level(LogLevel level) {
  for (const LevelRow& row : kLevels) {
    if (row.level == level) return row.sink_level;
  }
  return spdlog::level::off;
}

std::string_view name_of(spdlog::level::level_enum level) {
  for (const LevelRow& row : kLevels) {
    if (row.sink_level == level) return row.name;
  }
  return "";
}

// The level's name. Coloured here and not by spdlog's colour sink, which writes a line in pieces that a progress bar
// can come between.
class LevelFlag : public spdlog::custom_flag_formatter {
 public:
  explicit LevelFlag(bool coloured) : coloured_(coloured) {}

  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& out) override {
    const auto append = [&](std::string_view text) { out.append(text.data(), text.data() + text.size()); };
    for (const LevelRow& row : kLevels) {
      if (row.sink_level != message.level) continue;
      if (coloured_) append(row.colour);
      append(row.name);
      if (coloured_) append("\x1b[0m");
    }
  }

  [[nodiscard]] std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<LevelFlag>(coloured_);
  }

 private:
  bool coloured_;
};

std::unique_ptr<spdlog::formatter> make_formatter(bool terminal) {
  const std::string pattern = terminal ? std::string(kClearLine) + "%H:%M:%S %*: %v" : "%Y-%m-%d %H:%M:%S %*: %v";
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<LevelFlag>('*', terminal).set_pattern(pattern);
  return formatter;
}

}  // namespace

struct Log::Impl {
  spdlog::logger logger{"halfquad", std::make_shared<spdlog::sinks::stderr_sink_mt>()};
  LogFormat format = LogFormat::kText;

  void write(spdlog::level::level_enum level, std::string_view message) {
    if (!logger.should_log(level)) return;
    const bool json = format == LogFormat::kJson;
    logger.log(level, spdlog::string_view_t(json ? json_log_line(name_of(level), message) : one_line(message)));
  }
};

Log::Log(LogLevel level, LogFormat format) : level_(level), impl_(std::make_unique<Impl>()) {
  impl_->format = format;
  impl_->logger.set_formatter(format == LogFormat::kJson ? std::make_unique<spdlog::pattern_formatter>("%v")
                                                         : make_formatter(stderr_is_terminal()));
  impl_->logger.set_level(sink_level(level));
}

Log::~Log() = default;

void Log::debug(std::string_view message) { impl_->write(spdlog::level::debug, message); }
void Log::info(std::string_view message) { impl_->write(spdlog::level::info, message); }
void Log::warn(std::string_view message) { impl_->write(spdlog::level::warn, message); }
void Log::error(std::string_view message) { impl_->write(spdlog::level::err, message); }

LogLevel log_level_from_name(std::string_view name) {
  for (const LevelRow& row : kLevels) {
    if (row.name == name) return row.level;
  }
  throw Error(ErrorCode::kUsage,
              "unknown log level " + quoted(name) + "; choose trace, debug, info, warn, error or off");
}

LogFormat log_format_from_name(std::string_view name) {
  if (name == "text") return LogFormat::kText;
  if (name == "json") return LogFormat::kJson;
  throw Error(ErrorCode::kUsage, "unknown log format " + quoted(name) + "; choose text or json");
}

std::string json_log_line(std::string_view level, std::string_view message, std::string_view more) {
  return fmt::format(R"({{"time":"{}","level":{},"message":{}{}{}}})", utc_time(unix_microseconds()),
                     json_string(level), json_string(one_line(message)), more.empty() ? "" : ",", more);
}

}  // namespace halfquad
