#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "io/json.h"
#include "launcher/commands.h"
#include "launcher/help_formatter.h"
#include "launcher/options.h"
#include "launcher/original_source.h"
#include "launcher/output_report.h"
#include "launcher/page/page.h"
#include "launcher/report_export.h"
#include "launcher/report_text.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/layer_histograms.h"
#include "sharding/plain_model.h"
#include "sharding/quantized_model.h"

namespace halfquad {
namespace {

constexpr std::size_t kMostOutputs = 8;
constexpr int kMostHistograms = 64;
constexpr std::uint64_t kTraceLimit = 4ULL << 30;
constexpr char kTraceName[] = "trace.json";
constexpr char kStandardOutput[] = "-";

constexpr char kFooter[] =
    "\nOUT is what quantize or convert made, or its halfquad_report.json alone. Without --html, --csv and --json a\n"
    "summary is printed. FILE is replaced when it is there; - is standard output. The page needs no network, no\n"
    "JavaScript and no other file.\n"
    "Of one output, --html and --json also hold histograms of the layers with the largest errors, counted in OUT's\n"
    "weights; with --source those of the source's weights and of the errors too. A time line of the job's threads is\n"
    "added when there is a --trace, or a trace.json in OUT (OUT.trace.json beside a single file).\n"
    "Two and more outputs are compared, each with the first.\n"
    "\nExamples:\n"
    "  halfquad report ./model-hqq4\n"
    "  halfquad report ./model-hqq4 --html report.html --source ./model\n"
    "  halfquad report ./model-hqq4 --html report.html --trace ./trace.json    of a job with --trace ./trace.json\n"
    "  halfquad report ./model-hqq4 ./model-hqq3 --html comparison.html --csv layers.csv\n";

struct ReportOptions {
  std::vector<std::string> outputs;
  std::string html, csv, json;
  std::string trace, source;
  std::optional<int> histograms;
  MachineOptions machine;

  /// Layers that histograms are made of.
  [[nodiscard]] std::size_t histogram_count() const { return static_cast<std::size_t>(histograms.value_or(6)); }
};

struct Target {
  const std::string& file;
  const char* option;
};

void check_options(const ReportOptions& options) {
  HALFQUAD_REQUIRE(
      options.outputs.size() <= kMostOutputs, kUsage,
      fmt::format("at most {} outputs are compared at once, not {}", kMostOutputs, options.outputs.size()));
  const bool single = options.outputs.size() == 1;
  HALFQUAD_REQUIRE(single || options.trace.empty(), kUsage, "--trace belongs to one output; give one OUT");
  HALFQUAD_REQUIRE(single || options.source.empty(), kUsage, "--source belongs to one output; give one OUT");
  HALFQUAD_REQUIRE(single || !options.histograms, kUsage, "--histograms are those of one output; give one OUT");
  HALFQUAD_REQUIRE(options.source.empty() || !options.html.empty() || !options.json.empty(), kUsage,
                   "--source is for the histograms of --html and --json");
  const std::vector<Target> targets = {{options.html, "--html"}, {options.csv, "--csv"}, {options.json, "--json"}};
  for (auto a = targets.begin(); a != targets.end(); ++a) {
    for (auto b = a + 1; b != targets.end(); ++b) {
      HALFQUAD_REQUIRE(a->file.empty() || a->file != b->file, kUsage,
                       fmt::format("{} and {} cannot both go to {}", a->option, b->option, quoted(a->file)));
    }
  }
}

bool is_same_file(const std::string& target, const std::filesystem::path& input) {
  std::error_code ignored;
  return std::filesystem::equivalent(target, input, ignored);
}

/// What the reports were made from is not what they are written over.
void check_targets(const Context& context, const ReportOptions& options, const std::vector<ReportFile>& files) {
  for (const Target& target :
       {Target{options.html, "--html"}, Target{options.csv, "--csv"}, Target{options.json, "--json"}}) {
    if (target.file.empty() || target.file == kStandardOutput) continue;
    const FileKind kind = context.fs.kind(target.file);
    HALFQUAD_REQUIRE(kind == FileKind::kMissing || kind == FileKind::kFile, kUsage,
                     fmt::format("{}: {} is not a file; give another name", target.option, quoted(target.file)));
    for (const ReportFile& file : files) {
      HALFQUAD_REQUIRE(
          !is_same_file(target.file, file.path) && !is_same_file(target.file, file.output) &&
              (options.trace.empty() || !is_same_file(target.file, options.trace)),
          kUsage,
          fmt::format("{}: {} is what the report is made from; give another name", target.option, quoted(target.file)));
    }
  }
}

/// The --trace, or the one in the output.
std::optional<std::filesystem::path> find_trace(FileSystem& fs, const ReportOptions& options) {
  if (!options.trace.empty()) return options.trace;
  const std::string& output = options.outputs.front();
  const bool is_directory = fs.kind(output) == FileKind::kDirectory;
  const std::filesystem::path path =
      is_directory ? std::filesystem::path(output) / kTraceName : std::filesystem::path(output + "." + kTraceName);
  if (fs.kind(path) != FileKind::kFile) return std::nullopt;
  return path;
}

/// The plain model of an output, with the source's names where these are not its own.
std::optional<PlainModel> plain_of(const QuantizedModel& model, const Checkpoint* source) {
  if (model.format().keeps_names()) return plain_model(model);
  if (source == nullptr) return std::nullopt;
  return plain_model(model, *source);
}

void count_weights(const Context& context, const ReportOptions& options, OutputReport& output) {
  const ReportFile& file = output.file();
  const QuantizedModel model(context.fs, file.output);
  std::optional<Checkpoint> source;
  if (!options.source.empty()) {
    source = open_original(context.fs, options.source, file.converted ? SourceKind::kOutput : SourceKind::kCheckpoint);
  } else {
    output.histogram_note = "Histograms of the errors need the source's weights: halfquad report --source MODEL.";
  }
  const Checkpoint* original = source ? &*source : nullptr;
  const std::optional<PlainModel> plain = plain_of(model, original);
  if (!plain) {
    output.histogram_note = fmt::format(
        "A {} file has names of its own; histograms of its layers need the source: halfquad report --source MODEL.",
        model.format().name());
    return;
  }
  std::vector<std::string> modules;
  for (const std::size_t i : output.view.by_error) {
    if (modules.size() < options.histogram_count()) modules.push_back(file.layers[i].module);
  }
  ProgressCounters progress;
  ProgressTotals totals;
  totals.tensors = modules.size();
  totals.source_bytes = layer_histogram_bytes(*plain, original, modules);
  ProgressMeter meter(progress, totals, options.machine.progress_options(), "counting weights");
  output.histograms =
      layer_histograms(context.fs, model.checkpoint(), *plain, original, modules,
                       {options.machine.thread_count(), options.machine.memory_bytes(), options.machine.read_mode()},
                       progress, context.stop);
  meter.finish();
}

void add_histograms(const Context& context, const ReportOptions& options, OutputReport& output) {
  if (options.histogram_count() == 0 || (options.html.empty() && options.json.empty())) return;
  if (is_same_file(output.file().output, output.file().path)) {
    output.histogram_note = "The report file alone was given: histograms of weights need the output itself.";
    return;
  }
  try {
    count_weights(context, options, output);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kBadInput) throw;
    throw Error(error.code(), fmt::format("{}; --histograms 0 makes the report without reading weights", error.what()),
                error.where());
  }
}

std::vector<OutputReport> collect(const Context& context, const ReportOptions& options,
                                  const std::vector<ReportFile>& files) {
  const std::vector<std::string> names = short_names(files);
  std::vector<OutputReport> outputs;
  for (std::size_t i = 0; i < files.size(); ++i) {
    outputs.push_back(
        {.name = names[i], .view = view_of(files[i]), .time_line = {}, .histograms = {}, .histogram_note = {}});
  }
  if (outputs.size() > 1) return outputs;
  if (const auto trace = find_trace(context.fs, options)) {
    outputs[0].time_line = parse_time_line(read_text(context.fs, *trace, kTraceLimit), trace->string(), {});
  }
  add_histograms(context, options, outputs[0]);
  return outputs;
}

/// Writes `text`, and tells of it unless it went to standard output.
void put(const Context& context, const std::string& file, const std::string& text, std::string& told) {
  if (file == kStandardOutput) {
    context.out << text;
    return;
  }
  write_text(context.fs, file, text);
  told += fmt::format("{}: {}\n", quoted(file), human_bytes(text.size()));
}

void report(const Context& context, const ReportOptions& options) {
  check_options(options);
  std::vector<ReportFile> files;
  for (const std::string& output : options.outputs) files.push_back(read_report_file(context.fs, output));
  check_targets(context, options, files);
  const std::vector<OutputReport> outputs = collect(context, options, files);

  const auto is_asked = [](const std::string& file) { return !file.empty(); };
  const auto is_printed = [](const std::string& file) { return file == kStandardOutput; };
  std::string told;
  if (is_asked(options.html)) put(context, options.html, page::report_page(outputs), told);
  if (is_asked(options.csv)) put(context, options.csv, report_csv(outputs), told);
  if (is_asked(options.json)) put(context, options.json, pretty_json(report_json(outputs)), told);
  if (!is_asked(options.html) && !is_asked(options.csv) && !is_asked(options.json)) context.out << report_text(outputs);
  if (!is_printed(options.html) && !is_printed(options.csv) && !is_printed(options.json)) context.out << told;
}

}  // namespace

Command add_report(CLI::App& root, const Context& context) {
  auto options = std::make_shared<ReportOptions>();
  CLI::App* app = root.add_subcommand("report", "Show what a job did, or compare outputs: page, summary, CSV, JSON");
  app->footer(kFooter);
  app->add_option("OUT", options->outputs, "Outputs, or their halfquad_report.json")->required()->type_name("");
  app->add_option("--html", options->html, "Write one self-contained HTML page")->type_name("FILE");
  app->add_option("--csv", options->csv, "Write a line of CSV for each layer")->type_name("FILE");
  app->add_option("--json", options->json, "Write the figures of the page as JSON")->type_name("FILE");
  app->add_option("--source", options->source, "The checkpoint that OUT was made from, for histograms of errors")
      ->type_name("MODEL");
  app->add_option("--trace", options->trace, "What quantize --trace wrote, for a time line")->type_name("FILE");
  app->add_option("--histograms", options->histograms,
                  "Layers with the largest errors that histograms are made of; 0: none")
      ->default_str("6")
      ->check(quiet(CLI::Range(0, kMostHistograms)))
      ->type_name("N");
  add_thread_option(*app, options->machine);
  add_memory_options(*app, options->machine);
  add_message_options(*app, options->machine);
  return {app, [&context, options] { report(context, *options); }};
}

}  // namespace halfquad
