#include <algorithm>
#include <memory>
#include <ostream>

#include <fmt/format.h>

#include "io/json.h"
#include "io/output_directory.h"
#include "launcher/commands.h"
#include "launcher/job_monitor.h"
#include "launcher/options.h"
#include "launcher/side_files.h"
#include "runtime/check.h"
#include "runtime/log.h"
#include "runtime/text.h"
#include "sharding/dequantize.h"
#include "sharding/output_layout.h"
#include "sharding/plain_model.h"
#include "sharding/source_model.h"

namespace halfquad {
namespace {

constexpr char kFooter[] =
    "\nThe result is a plain checkpoint that any engine loads. Tensors that were never quantized keep their type.\n"
    "A GGUF file has names, an order of rows and settings of its own: with --source the result has those of the\n"
    "checkpoint it was made from, so that transformers loads it.\n"
    "\nExamples:\n"
    "  halfquad dequantize ./model-hqq4 ./model-back --dtype f16\n"
    "  halfquad dequantize ./model.gguf ./model-back --source ./model\n";

constexpr char kPhase[] = "dequantizing";

struct DequantizeCommandOptions {
  std::string output;
  std::string directory;
  std::string source;
  std::string dtype = "bf16";
  bool overwrite = false;
  MachineOptions machine;
  MonitorOptions monitor;
};

/// config.json and the small files of `model`.
void write_beside(const Context& context, const Checkpoint& model, DType dtype, const OutputDirectory& out) {
  if (model.config()) {
    write_text(context.fs, out.path_of(kConfigName), pretty_json(dequantized_config(model.config(), dtype)));
  }
  copy_side_files(context.fs, model, out);
}

/// What a result holds.
struct Made {
  std::size_t layers = 0, others = 0;
};

/// What a run has to speak with.
struct Run {
  const DequantizeCommandOptions& options;
  Log& log;
  JobMonitor& monitor;
};

Made fill(const Context& context, const QuantizedModel& output, const Run& run,
          const DequantizeOptions& dequantize_options, const OutputDirectory& out) {
  ProgressCounters progress;
  const ProgressTotals totals = dequantize_totals(output);
  ProgressMeter meter(progress, totals, run.options.machine.progress_options(), kPhase);
  const JobMonitor::Stage stage(run.monitor, kPhase, progress, totals);
  dequantize(context.fs, output, out.path_of(kWeightsName), dequantize_options, progress, context.stop);
  meter.finish();
  write_beside(context, output.checkpoint(), dequantize_options.dtype, out);
  copy_enclosed_files(context.fs, enclosed_files(context.fs, run.options.output), out);
  return {output.layers().size(), output.plain().size()};
}

/// The same with names, orders and config of the source.
Made fill_as_source(const Context& context, const QuantizedModel& output, const Run& run,
                    const DequantizeOptions& dequantize_options, const OutputDirectory& out) {
  const Checkpoint source = open_source(context.fs, run.options.source);
  const PlainModel model = plain_model(output, source);
  for (const std::string& note : model.notes) {
    run.monitor.count_warning();
    run.log.warn(note);
  }
  ProgressCounters progress;
  const ProgressTotals totals = dequantize_totals(model);
  ProgressMeter meter(progress, totals, run.options.machine.progress_options(), kPhase);
  const JobMonitor::Stage stage(run.monitor, kPhase, progress, totals);
  dequantize(context.fs, output, model, out.path_of(kWeightsName), dequantize_options, progress, context.stop);
  meter.finish();
  write_beside(context, source, dequantize_options.dtype, out);
  const auto layers = static_cast<std::size_t>(
      std::ranges::count_if(model.tensors, [](const PlainTensor& plain) { return plain.layer.has_value(); }));
  return {layers, model.tensors.size() - layers};
}

void dequantize_with(const Context& context, const Run& run) {
  const DequantizeCommandOptions& options = run.options;
  DequantizeOptions dequantize_options;
  dequantize_options.dtype = float_dtype_from_name(options.dtype, "--dtype");
  dequantize_options.threads = options.machine.thread_count();
  dequantize_options.memory_bytes = options.machine.memory_bytes();
  dequantize_options.read_mode = options.machine.read_mode();

  const QuantizedModel output(context.fs, options.output);
  OutputDirectory out(context.fs, options.directory, options.output,
                      options.overwrite ? Overwrite::kYes : Overwrite::kNo);
  Made made;
  fill_and_commit(out, [&] {
    made = (options.source.empty() ? fill : fill_as_source)(context, output, run, dequantize_options, out);
  });
  context.out << fmt::format("{}: {} layers as {}, {} other tensors unchanged\n", quoted(options.directory),
                             made.layers, name_of(dequantize_options.dtype), made.others);
}

void run_dequantize(const Context& context, const DequantizeCommandOptions& options,
                    const std::vector<std::string>& arguments) {
  Log log(options.machine.level(), options.machine.format());
  JobMonitor monitor(context.fs, options.monitor, options.machine.progress_options().interval,
                     {.command = "dequantize", .arguments = command_line(arguments), .output = options.directory},
                     [&log](const std::string& text) { log.warn(text); });
  monitored(monitor, [&] { dequantize_with(context, {options, log, monitor}); });
}

}  // namespace

Command add_dequantize(CLI::App& root, const Context& context, const std::vector<std::string>& arguments) {
  auto options = std::make_shared<DequantizeCommandOptions>();
  CLI::App* app = root.add_subcommand("dequantize", "Turn an output back into plain 16 or 32 bit weights");
  app->footer(kFooter);
  app->add_option("OUT", options->output, "What quantize wrote")->required()->type_name("");
  app->add_option("DIR", options->directory, "Directory to create")->required()->type_name("");
  app->add_option("--source", options->source, "The checkpoint it was made from: for names, config.json and tokenizer")
      ->type_name("MODEL");
  app->add_option("--dtype", options->dtype, "bf16, f16, f32")->capture_default_str()->type_name("TYPE");
  app->add_flag("--overwrite", options->overwrite, "Replace DIR once the new output is complete");
  add_thread_option(*app, options->machine);
  add_memory_options(*app, options->machine);
  add_message_options(*app, options->machine);
  add_monitor_options(*app, options->monitor);
  return {app, [&context, options, &arguments] { run_dequantize(context, *options, arguments); }};
}

}  // namespace halfquad
