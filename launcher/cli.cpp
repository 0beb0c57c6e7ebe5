#include "launcher/cli.h"

#include <memory>
#include <new>
#include <ostream>
#include <string_view>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "kernels/solver.h"
#include "launcher/commands.h"
#include "launcher/exit_code.h"
#include "launcher/features.h"
#include "launcher/help_formatter.h"
#include "launcher/version.h"
#include "runtime/check.h"
#include "runtime/log.h"
#include "runtime/machine.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::string_view kDescription =
    "halfquad quantizes Hugging Face checkpoints of any size without calibration data.\n"
    "It streams: the model is never loaded, memory stays below --memory, and the output has its final\n"
    "name only once it is complete.";

constexpr std::string_view kFooter =
    "\nExamples:\n"
    "  halfquad quantize ./Llama-3-8B ./Llama-3-8B-hqq4             4 bit, groups of 64\n"
    "  halfquad plan ./Llama-3-8B --bits 3                          sizes and memory, nothing written\n"
    "  halfquad verify ./Llama-3-8B-hqq4 --source ./Llama-3-8B      checksums and errors\n"
    "  halfquad report ./Llama-3-8B-hqq4 --html report.html         what it did, as a page\n"
    "  halfquad help quantize                                       all options of a command\n"
    "\nExit codes:\n"
    "  0 done   2 usage   3 bad input   4 I/O (disk full, short file)   5 out of memory\n"
    "  6 verification found differences   70 internal error   75 interrupted, run it again\n";

constexpr std::string_view kNoMemory = "the system has no more memory; try a smaller --memory or fewer --threads";

std::string join(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : " ") + part;
  return text;
}

std::string version_text() {
  std::string text = fmt::format("halfquad {}\n", HALFQUAD_VERSION);
#if defined(__clang__)
  text += fmt::format("compiler      clang {}\n", __clang_version__);
#else
  text += fmt::format("compiler      gcc {}\n", __VERSION__);
#endif
  text += fmt::format("processor     {}, {} usable cores\n", cpu_model(), usable_cores());
  text += fmt::format("SIMD targets  {} (the first is used)\n", join(simd_targets()));
  for (const Feature& feature : available_features()) {
    text += fmt::format("{:<13} {}{}{}\n", feature.name, feature.available ? "yes" : "no",
                        feature.detail.empty() ? "" : ", ", feature.detail);
  }
  return text;
}

/// Control characters would break the promise of one line.
std::string one_line(std::string_view text) {
  std::string line;
  for (const char c : text) line += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? ' ' : c;
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

int fail(const Context& context, int code, std::string_view message) {
  context.out.flush();
  if (context.log_format == LogFormat::kJson) {
    context.err << json_log_line("error", one_line(message), fmt::format("\"exit_code\":{}", code)) << '\n';
  } else {
    context.err << "halfquad: error: " << one_line(message) << '\n';
  }
  context.err << std::flush;
  return code;
}

/// Known before anything is parsed, so that errors of usage have the form asked for too.
LogFormat log_format_of(const std::vector<std::string>& arguments) {
  constexpr std::string_view kOption = "--log-format";
  LogFormat format = LogFormat::kText;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string_view word = arguments[i];
    if (word == "--log-format=json") format = LogFormat::kJson;
    if (word == kOption && i + 1 < arguments.size() && arguments[i + 1] == "json") format = LogFormat::kJson;
  }
  return format;
}

/// The subcommand named first, for the hint.
std::string help_hint(const CLI::App& root) {
  const std::vector<CLI::App*> parsed = root.get_subcommands();
  return parsed.empty() ? "halfquad --help" : fmt::format("halfquad {} --help", parsed.front()->get_name());
}

void print_help(CLI::App& root, const std::string& topic, std::ostream& out) {
  if (topic.empty()) {
    out << root.help();
    return;
  }
  const auto found = root.get_subcommands([&topic](const CLI::App* command) { return command->get_name() == topic; });
  HALFQUAD_REQUIRE(!found.empty(), kUsage, fmt::format("there is no command {}; see halfquad --help", quoted(topic)));
  out << found.front()->help("halfquad");
}

void run_parsed(CLI::App& root, const std::vector<Command>& commands, const Context& context) {
  for (const Command& command : commands) {
    if (!command.app->parsed()) continue;
    if (!command.with_ranks) require_alone(context.environment, command.app->get_name());
    command.run();
    return;
  }
  print_help(root, "", context.out);
}

void parse_and_run(CLI::App& root, const std::vector<std::string>& arguments, const Context& context) {
  root.footer(std::string(kFooter));
  root.formatter(std::make_shared<HelpFormatter>());
  root.require_subcommand(0, 1);
  root.set_version_flag("--version,-V", version_text, "Print version, compiler, SIMD targets and optional parts");
  root.set_help_flag("--help,-h", "Print this help");

  const std::vector<Command> commands = {
      add_quantize(root, context, arguments),
      add_convert(root, context, arguments),
      add_plan(root, context),
      add_verify(root, context, arguments),
      add_dequantize(root, context, arguments),
      add_importance(root, context),
      add_inspect(root, context),
      add_report(root, context),
      add_synth(root, context),
      add_bench(root, context),
  };
  std::string topic;
  CLI::App* help = root.add_subcommand("help", "Explain a command");
  help->add_option("COMMAND", topic, "The command to explain");

  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // the order that CLI11 takes
  root.parse(reversed);
  if (help->parsed()) {
    print_help(root, topic, context.out);
  } else {
    run_parsed(root, commands, context);
  }
}

int run_guarded(const std::vector<std::string>& arguments, const Context& context) {
  CLI::App root(std::string(kDescription), "halfquad");
  try {
    parse_and_run(root, arguments, context);
  } catch (const CLI::CallForVersion& call) {
    context.out << call.what();
  } catch (const CLI::CallForHelp&) {
    const std::vector<CLI::App*> parsed = root.get_subcommands();
    print_help(root, parsed.empty() ? "" : parsed.front()->get_name(), context.out);
  } catch (const CLI::ParseError& error) {
    return fail(context, kExitUsage, fmt::format("{}; see {}", one_line(error.what()), help_hint(root)));
  }
  context.out.flush();
  HALFQUAD_REQUIRE(context.out.good(), kIo, "cannot write to standard output");
  return kExitDone;
}

int run_reported(const std::vector<std::string>& arguments, const Context& context) {
  try {
    return run_guarded(arguments, context);
  } catch (const QuietExit& exit) {
    return exit.code;
  } catch (const Error& error) {
    return report_error(context, error);
  } catch (const std::bad_alloc&) {
    return fail(context, kExitOutOfMemory, kNoMemory);
  } catch (const std::exception& error) {
    return fail(context, kExitInternal, fmt::format("{}; this is a bug", error.what()));
  } catch (...) {
    return fail(context, kExitInternal, "an unknown exception; this is a bug");
  }
}

}  // namespace

std::vector<std::string> command_line(const std::vector<std::string>& arguments) {
  std::vector<std::string> line{"halfquad"};
  line.insert(line.end(), arguments.begin(), arguments.end());
  return line;
}

int report_error(const Context& context, const Error& error) {
  const bool bug = error.code() == ErrorCode::kInternal;
  return fail(
      context, exit_code(error.code()),
      bug ? fmt::format("{} ({}:{}); this is a bug", error.what(), error.where().file_name(), error.where().line())
          : std::string(error.what()));
}

int run_cli(const std::vector<std::string>& arguments, const Context& given) noexcept {
  try {
    Context context = given;
    context.log_format = log_format_of(arguments);
    return run_reported(arguments, context);
  } catch (...) {
    return fail(given, kExitOutOfMemory, kNoMemory);
  }
}

}  // namespace halfquad
