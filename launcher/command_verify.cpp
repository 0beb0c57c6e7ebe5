#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <ostream>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <fmt/format.h>

#include "io/json.h"
#include "launcher/commands.h"
#include "launcher/options.h"
#include "launcher/report.h"
#include "launcher/side_files.h"
#include "launcher/table.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/verify.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::size_t kProblemsShown = 20;
constexpr std::size_t kLayersShown = 10;
constexpr std::uint64_t kReportLimit = 1ULL << 30;

constexpr char kFooter[] =
    "\nWithout --source: the structure that loaders need and the checksums of halfquad_report.json.\n"
    "With it also: no tensor missing or extra, kept tensors equal bit for bit, each layer's error computed again.\n"
    "Exit code 6 when anything differs.\n"
    "\nExample:\n"
    "  halfquad verify ./model-hqq4 --source ./model\n";

struct VerifyCommandOptions {
  std::string output;
  std::string source;
  bool as_json = false;
  MachineOptions machine;
};

std::optional<json::object> read_report(FileSystem& fs, const Checkpoint& checkpoint) {
  if (checkpoint.is_single_file()) return std::nullopt;
  const std::filesystem::path path = checkpoint.directory() / kReportName;
  if (fs.kind(path) != FileKind::kFile) return std::nullopt;
  json::value report = parse_json(read_text(fs, path, kReportLimit), path.string());
  HALFQUAD_REQUIRE(report.is_object(), kBadInput, fmt::format("{}: not a JSON object", quoted(path.string())));
  return std::move(report.as_object());
}

ErrorFigures figures_of(const LayerError& layer) {
  return error_figures(layer.error, static_cast<std::uint64_t>(layer.weights));
}

std::string worst_layers(const VerifyResult& result) {
  std::vector<std::size_t> order(result.layers.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto relative = [&](std::size_t i) { return figures_of(result.layers[i]).relative.value_or(HUGE_VAL); };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return relative(a) > relative(b); });
  order.resize(std::min(order.size(), kLayersShown));

  Table table("lrrr", {"worst layers", "relative error", "SQNR", "largest"});
  for (const std::size_t i : order) {
    const ErrorFigures figures = figures_of(result.layers[i]);
    table.add_row({quoted(result.layers[i].module), figures.relative ? fmt::format("{:.5f}", *figures.relative) : "-",
                   figures.sqnr_db ? fmt::format("{:.1f} dB", *figures.sqnr_db) : "-",
                   fmt::format("{:.3g}", figures.max_abs)});
  }
  return table.text(2);
}

std::string verify_text(const VerifyCommandOptions& options, const HqqOutput& output, const VerifyResult& result,
                        bool has_report) {
  std::string text;
  for (std::size_t i = 0; i < std::min(kProblemsShown, result.problems.size()); ++i) {
    text += fmt::format("problem: {}\n", result.problems[i]);
  }
  if (result.problems.size() > kProblemsShown) {
    text += fmt::format("... and {} more\n", result.problems.size() - kProblemsShown);
  }
  text += fmt::format("{}: {} layers, {} other tensors, {} checksums compared, {} read{}\n", quoted(options.output),
                      output.layers().size(), output.plain().size(), result.checksums_compared,
                      human_bytes(result.bytes_read),
                      has_report ? "" : fmt::format(" (no {}: checksums could not be checked)", kReportName));
  if (!result.layers.empty()) text += worst_layers(result);
  text += result.problems.empty() ? "OK\n" : fmt::format("{} problems\n", result.problems.size());
  return text;
}

json::object verify_json(const VerifyResult& result) {
  json::array layers;
  for (const LayerError& layer : result.layers) {
    const ErrorFigures figures = figures_of(layer);
    layers.push_back({{"module", layer.module},
                      {"mean_abs_error", figures.mean_abs},
                      {"relative_error", figures.relative ? json::value(*figures.relative) : json::value(nullptr)},
                      {"sqnr_db", figures.sqnr_db ? json::value(*figures.sqnr_db) : json::value(nullptr)},
                      {"max_abs_error", figures.max_abs}});
  }
  return {{"format", "halfquad-verify"},
          {"version", 1},
          {"ok", result.problems.empty()},
          {"problems", json::array(result.problems.begin(), result.problems.end())},
          {"checksums_compared", result.checksums_compared},
          {"bytes_read", result.bytes_read},
          {"layers", std::move(layers)}};
}

void run_verify(const Context& context, const VerifyCommandOptions& options) {
  const HqqOutput output(context.fs, options.output);
  const std::optional<json::object> report = read_report(context.fs, output.checkpoint());
  std::optional<Checkpoint> source;
  if (!options.source.empty()) source.emplace(context.fs, options.source);

  VerifyOptions verify;
  verify.threads = options.machine.thread_count();
  verify.memory_bytes = options.machine.memory_bytes();
  verify.read_mode = options.machine.read_mode();
  verify.make_solver = options.machine.solver_factory();

  ProgressCounters progress;
  ProgressTotals totals;
  totals.source_bytes = output.checkpoint().tensor_bytes() + (source ? source->tensor_bytes() : 0);
  ProgressMeter meter(progress, totals, options.machine.progress_mode(), "verifying");
  const VerifyResult result =
      verify_output(context.fs, output, report, source ? &*source : nullptr, verify, progress, context.stop);
  meter.finish();

  context.out << (options.as_json ? pretty_json(verify_json(result))
                                  : verify_text(options, output, result, report.has_value()));
  HALFQUAD_REQUIRE(result.problems.empty(), kMismatch,
                   fmt::format("{} differs from what it should be in {} places; the first: {}", quoted(options.output),
                               result.problems.size(), result.problems.front()));
}

}  // namespace

Command add_verify(CLI::App& root, const Context& context) {
  auto options = std::make_shared<VerifyCommandOptions>();
  CLI::App* app = root.add_subcommand("verify", "Check an output: structure, checksums, errors against the source");
  app->footer(kFooter);
  app->add_option("OUT", options->output, "What quantize wrote")->required()->type_name("");
  app->add_option("--source", options->source, "The checkpoint it was made from")->type_name("MODEL");
  app->add_flag("--json", options->as_json, "Print JSON");
  add_thread_option(*app, options->machine);
  add_memory_options(*app, options->machine);
  add_solver_options(*app, options->machine);
  add_message_options(*app, options->machine);
  return {app, [&context, options] { run_verify(context, *options); }};
}

}  // namespace halfquad
