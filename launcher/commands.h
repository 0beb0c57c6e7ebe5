#pragma once

#include <functional>
#include <string>
#include <vector>

#include <CLI/App.hpp>

#include "launcher/context.h"

namespace halfquad {

/// One subcommand: its parser, and what it does once the arguments are parsed.
struct Command {
  CLI::App* app = nullptr;
  std::function<void()> run;
  bool with_ranks = false;  ///< Works as one of several ranks too.
};

/// The command line of `arguments`: the program's name before them.
[[nodiscard]] std::vector<std::string> command_line(const std::vector<std::string>& arguments);

/// Each adds its subcommand to `root`. `context` must outlive the command; `arguments` go into the report and
/// to those who watch the job.
[[nodiscard]] Command add_quantize(CLI::App& root, const Context& context, const std::vector<std::string>& arguments);
[[nodiscard]] Command add_convert(CLI::App& root, const Context& context, const std::vector<std::string>& arguments);
[[nodiscard]] Command add_plan(CLI::App& root, const Context& context);
[[nodiscard]] Command add_verify(CLI::App& root, const Context& context, const std::vector<std::string>& arguments);
[[nodiscard]] Command add_dequantize(CLI::App& root, const Context& context, const std::vector<std::string>& arguments);
[[nodiscard]] Command add_importance(CLI::App& root, const Context& context);
[[nodiscard]] Command add_inspect(CLI::App& root, const Context& context);
[[nodiscard]] Command add_report(CLI::App& root, const Context& context);
[[nodiscard]] Command add_synth(CLI::App& root, const Context& context);
[[nodiscard]] Command add_bench(CLI::App& root, const Context& context);

}  // namespace halfquad
