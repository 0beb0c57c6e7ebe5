#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <ostream>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <fmt/format.h>

#include "io/json.h"
#include "launcher/commands.h"
#include "launcher/job_monitor.h"
#include "launcher/options.h"
#include "launcher/original_source.h"
#include "launcher/output_errors.h"
#include "launcher/report.h"
#include "launcher/side_files.h"
#include "launcher/table.h"
#include "runtime/check.h"
#include "runtime/log.h"
#include "runtime/text.h"
#include "sharding/given_importance.h"
#include "sharding/verify.h"
#include "sharding/verify_quality.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::size_t kProblemsShown = 20;
constexpr std::size_t kLayersShown = 10;
constexpr std::uint64_t kReportLimit = 1ULL << 30;

constexpr char kFooter[] =
    "\nWithout --source: the structure that loaders need and the checksums of halfquad_report.json.\n"
    "With it also: no tensor missing or extra, kept tensors equal bit for bit, each layer's error computed again, "
    "weighted\n"
    "as its columns were (of those weighted by a file with --importance FILE), and for hqq that of round to nearest.\n"
    "Exit code 6 when anything differs.\n"
    "With --activations also: how far the outputs of each layer are off, ||X (W - What)^T|| / ||X W^T||, for N random\n"
    "inputs X (standard normal) or those of FILE: tensors named like the layers, [samples, inputs] of F32, F16 or "
    "BF16.\n"
    "The products are fp32: other threads, memory, BLAS or devices change the figures by less than 1e-4 of them.\n"
    "\nExamples:\n"
    "  halfquad verify ./model-hqq4                      checksums alone, as after a copy\n"
    "  halfquad verify ./model-hqq4 --source ./model\n"
    "  halfquad verify ./model-hqq4 --source ./model --importance ./importance.safetensors\n"
    "  halfquad verify ./model-hqq4 --source ./model --activations 128\n";

struct VerifyCommandOptions {
  std::string output;
  std::string source;
  std::string importance;
  ActivationOptions activations;
  bool as_json = false;
  MachineOptions machine;
  MonitorOptions monitor;
};

std::optional<json::object> read_report(FileSystem& fs, const Checkpoint& checkpoint) {
  std::filesystem::path path = checkpoint.directory() / kReportName;
  if (checkpoint.is_single_file()) path = checkpoint.files()[0].path.string() + "." + kReportName;
  if (fs.kind(path) != FileKind::kFile) return std::nullopt;
  json::value report = parse_json(read_text(fs, path, kReportLimit), path.string());
  HALFQUAD_REQUIRE(report.is_object(), kBadInput, fmt::format("{}: not a JSON object", quoted(path.string())));
  return std::move(report.as_object());
}

ErrorFigures figures_of(const LayerError& layer) {
  return error_figures(layer.error, static_cast<std::uint64_t>(layer.weights));
}

std::string fraction_text(const std::optional<double>& figure) { return figure ? fmt::format("{:.5f}", *figure) : "-"; }

std::string worst_layers(const VerifyResult& result, const OutputErrorReport* outputs) {
  std::vector<std::size_t> order(result.layers.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto relative = [&](std::size_t i) { return figures_of(result.layers[i]).relative.value_or(HUGE_VAL); };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return relative(a) > relative(b); });
  order.resize(std::min(order.size(), kLayersShown));

  std::vector<std::string> headers = {"worst layers", "relative error", "weighted", "SQNR", "largest"};
  if (outputs != nullptr) headers.push_back("output error");
  Table table(std::string("l") + std::string(headers.size() - 1, 'r'), headers);
  for (const std::size_t i : order) {
    const ErrorFigures figures = figures_of(result.layers[i]);
    std::vector<std::string> row = {
        quoted(result.layers[i].module), fraction_text(figures.relative), fraction_text(result.layers[i].weighted),
        figures.sqnr_db ? fmt::format("{:.1f} dB", *figures.sqnr_db) : "-", fmt::format("{:.3g}", figures.max_abs)};
    if (outputs != nullptr) row.push_back(fraction_text(outputs->errors[i].relative()));
    table.add_row(std::move(row));
  }
  return table.text(2);
}

/// Of layers whose error round to nearest would have left smaller, how many, and the worst; empty when none is known.
std::string nearest_text(const VerifyResult& result) {
  std::size_t known = 0;
  std::size_t worse = 0;
  double most = 1;
  const LayerError* worst = nullptr;
  for (const LayerError& layer : result.layers) {
    const std::optional<double> relative = figures_of(layer).relative;
    if (!layer.nearest || !relative) continue;
    ++known;
    if (!(*relative > *layer.nearest)) continue;
    ++worse;
    if (*relative < most * *layer.nearest) continue;
    most = *relative / *layer.nearest;
    worst = &layer;
  }
  if (known == 0) return {};
  std::string text = fmt::format("larger error than round to nearest: {} of {} layers that hqq solved", worse, known);
  if (worst != nullptr) {
    text += fmt::format(", most of all {} ({:.5f} instead of {:.5f})", quoted(worst->module),
                        *figures_of(*worst).relative, *worst->nearest);
  }
  return text + '\n';
}

/// What became of the source's tensors: "source: 28 quantized, 9 kept: norm".
std::string accounts_text(const VerifyResult& result) {
  std::string text;
  for (const auto& [what, count] : result.accounts) {
    text += fmt::format("{}{} {}", text.empty() ? "tensors of the source: " : ", ", count, what);
  }
  text += '\n';
  for (const std::string& note : result.notes) text += fmt::format("note: {}\n", note);
  return text;
}

/// What was found; `outputs` when output errors were asked for.
struct Findings {
  const VerifyResult& result;
  const OutputErrorReport* outputs;
  bool has_report;
};

std::string verify_text(const VerifyCommandOptions& options, const QuantizedModel& output, const Findings& findings) {
  const VerifyResult& result = findings.result;
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
                      findings.has_report ? "" : fmt::format(" (no {}: checksums could not be checked)", kReportName));
  if (!result.accounts.empty()) text += accounts_text(result);
  if (!result.layers.empty()) text += worst_layers(result, findings.outputs);
  text += nearest_text(result);
  if (findings.outputs != nullptr) text += output_error_text(*findings.outputs, result.layers);
  text += result.problems.empty() ? "OK\n" : fmt::format("{} problems\n", result.problems.size());
  return text;
}

json::object verify_json(const Findings& findings) {
  const VerifyResult& result = findings.result;
  const auto or_null = [](const std::optional<double>& figure) { return figure ? json::value(*figure) : nullptr; };
  json::array layers;
  for (std::size_t i = 0; i < result.layers.size(); ++i) {
    const ErrorFigures figures = figures_of(result.layers[i]);
    json::object layer = {{"module", result.layers[i].module},
                          {"mean_abs_error", figures.mean_abs},
                          {"relative_error", or_null(figures.relative)},
                          {"weighted_relative_error", or_null(result.layers[i].weighted)},
                          {"nearest_relative_error", or_null(result.layers[i].nearest)},
                          {"sqnr_db", or_null(figures.sqnr_db)},
                          {"max_abs_error", figures.max_abs}};
    if (findings.outputs != nullptr) layer["output_error"] = or_null(findings.outputs->errors[i].relative());
    layers.push_back(std::move(layer));
  }
  json::object found = {{"format", "halfquad-verify"},
                        {"version", 1},
                        {"ok", result.problems.empty()},
                        {"problems", json::array(result.problems.begin(), result.problems.end())},
                        {"checksums_compared", result.checksums_compared},
                        {"bytes_read", result.bytes_read},
                        {"layers", std::move(layers)}};
  json::object accounts;
  for (const auto& [what, count] : result.accounts) accounts[what] = count;
  if (!accounts.empty()) found["source_tensors"] = std::move(accounts);
  if (findings.outputs != nullptr) found["output_error"] = output_error_json(*findings.outputs, result.layers);
  return found;
}

/// What a run has to speak with.
struct Run {
  Log& log;
  JobMonitor& monitor;
};

void verify_with(const Context& context, const VerifyCommandOptions& options, const Run& run) {
  HALFQUAD_REQUIRE(!options.activations.asked() || !options.source.empty(), kUsage,
                   "--activations needs --source: the errors of outputs are against those of the source");
  HALFQUAD_REQUIRE(options.activations.asked() || options.activations.devices.devices == "auto", kUsage,
                   "--devices needs --activations: GPUs only multiply for the errors of outputs");
  HALFQUAD_REQUIRE(options.importance.empty() || !options.source.empty(), kUsage,
                   "--importance needs --source: errors are against that");
  check_device_options(options.activations.devices);
  const QuantizedModel output(context.fs, options.output);
  const bool same_names = output.format().keeps_names();
  HALFQUAD_REQUIRE(
      !options.activations.asked() || same_names, kUsage,
      fmt::format("--activations: the layers of a {} output have names of their own", output.format().name()));
  const std::optional<json::object> report = read_report(context.fs, output.checkpoint());
  std::optional<Checkpoint> source;
  if (!options.source.empty()) {
    const bool converted = report && report->contains("converted");
    source = open_original(context.fs, options.source, converted ? SourceKind::kOutput : SourceKind::kCheckpoint);
  }

  VerifyOptions verify;
  verify.threads = options.machine.thread_count();
  verify.memory_bytes = options.machine.memory_bytes();
  verify.read_mode = options.machine.read_mode();
  verify.make_solver = options.machine.solver_factory();

  std::optional<GivenImportance> importance;
  if (!options.importance.empty()) importance.emplace(context.fs, options.importance);

  std::optional<OutputErrorRun> outputs;
  const OutputErrorTools tools{options.machine, [&](const std::string& text) {
                                 run.monitor.count_warning();
                                 run.log.warn(text);
                               }};
  if (options.activations.asked()) outputs.emplace(context.fs, options.activations, tools, output, *source);

  ProgressCounters progress;
  ProgressTotals totals;
  totals.source_bytes = output.checkpoint().tensor_bytes() + (source ? source->tensor_bytes() : 0);
  if (outputs) totals.source_bytes += outputs->source_bytes();
  ProgressMeter meter(progress, totals, options.machine.progress_options(), "verifying");
  const JobMonitor::Stage stage(run.monitor, "verifying", progress, totals);
  VerifyResult result = verify_output(context.fs, output, report, source && same_names ? &*source : nullptr, verify,
                                      progress, context.stop);
  if (source && !same_names) {
    verify_against_source(context.fs, output, report, *source, verify, progress, context.stop, result);
  }
  if (source && report && !report->contains("converted")) {
    verify_quality(context.fs, output, *report, *source, importance ? &*importance : nullptr, verify, context.stop,
                   result);
  }
  std::optional<OutputErrorReport> measured;
  if (outputs) {
    measured = outputs->measure(result.layers, progress, context.stop);
    result.bytes_read += measured->bytes_read;
  }
  meter.finish();

  const Findings findings{result, measured ? &*measured : nullptr, report.has_value()};
  context.out << (options.as_json ? pretty_json(verify_json(findings)) : verify_text(options, output, findings));
  HALFQUAD_REQUIRE(result.problems.empty(), kMismatch,
                   fmt::format("{} differs from what it should be in {} places; the first: {}", quoted(options.output),
                               result.problems.size(), result.problems.front()));
}

void run_verify(const Context& context, const VerifyCommandOptions& options,
                const std::vector<std::string>& arguments) {
  Log log(options.machine.level(), options.machine.format());
  JobMonitor monitor(context.fs, options.monitor, options.machine.progress_options().interval,
                     {.command = "verify", .arguments = command_line(arguments), .output = options.output},
                     [&log](const std::string& text) { log.warn(text); });
  monitored(monitor, [&] { verify_with(context, options, {log, monitor}); });
}

}  // namespace

Command add_verify(CLI::App& root, const Context& context, const std::vector<std::string>& arguments) {
  auto options = std::make_shared<VerifyCommandOptions>();
  CLI::App* app = root.add_subcommand("verify", "Check an output: structure, checksums, errors against the source");
  app->footer(kFooter);
  app->add_option("OUT", options->output, "What quantize wrote")->required()->type_name("");
  app->add_option("--source", options->source, "The checkpoint it was made from")->type_name("MODEL");
  app->add_option("--importance", options->importance, "The file that its columns were weighted by")->type_name("FILE");
  add_activation_options(*app, options->activations);
  app->add_flag("--json", options->as_json, "Print JSON");
  add_thread_option(*app, options->machine);
  add_memory_options(*app, options->machine);
  add_solver_options(*app, options->machine);
  add_message_options(*app, options->machine);
  add_monitor_options(*app, options->monitor);
  return {app, [&context, options, &arguments] { run_verify(context, *options, arguments); }};
}

}  // namespace halfquad
