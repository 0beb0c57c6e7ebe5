#include <memory>
#include <ostream>

#include <fmt/format.h>

#include "io/json.h"
#include "io/output_directory.h"
#include "launcher/commands.h"
#include "launcher/options.h"
#include "launcher/side_files.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/dequantize.h"
#include "sharding/output_layout.h"

namespace halfquad {
namespace {

constexpr char kFooter[] =
    "\nThe result is a plain checkpoint that any engine loads. Tensors that were never quantized keep their type.\n"
    "\nExample:\n"
    "  halfquad dequantize ./model-hqq4 ./model-back --dtype f16\n";

struct DequantizeCommandOptions {
  std::string output;
  std::string directory;
  std::string dtype = "bf16";
  bool overwrite = false;
  MachineOptions machine;
};

void fill(const Context& context, const QuantizedModel& output, const DequantizeCommandOptions& options,
          const DequantizeOptions& dequantize_options, const OutputDirectory& out) {
  ProgressCounters progress;
  ProgressMeter meter(progress, dequantize_totals(output), options.machine.progress_mode(), "dequantizing");
  dequantize(context.fs, output, out.path_of(kWeightsName), dequantize_options, progress, context.stop);
  meter.finish();
  if (output.checkpoint().config()) {
    write_text(context.fs, out.path_of(kConfigName), pretty_json(dequantized_config(output, dequantize_options.dtype)));
  }
  copy_side_files(context.fs, output.checkpoint(), out);
}

void run_dequantize(const Context& context, const DequantizeCommandOptions& options) {
  DequantizeOptions dequantize_options;
  dequantize_options.dtype = float_dtype_from_name(options.dtype, "--dtype");
  dequantize_options.threads = options.machine.thread_count();
  dequantize_options.memory_bytes = options.machine.memory_bytes();
  dequantize_options.read_mode = options.machine.read_mode();

  const QuantizedModel output(context.fs, options.output);
  OutputDirectory out(context.fs, options.directory, options.output,
                      options.overwrite ? Overwrite::kYes : Overwrite::kNo);
  try {
    fill(context, output, options, dequantize_options, out);
    out.commit();
  } catch (const Error& error) {
    discard_quietly(out);
    if (error.code() != ErrorCode::kInterrupted) throw;
    throw Error(ErrorCode::kInterrupted, "interrupted by a signal: no output was written; run the same command again");
  } catch (...) {
    discard_quietly(out);
    throw;
  }
  context.out << fmt::format("{}: {} layers as {}, {} other tensors unchanged\n", quoted(options.directory),
                             output.layers().size(), name_of(dequantize_options.dtype), output.plain().size());
}

}  // namespace

Command add_dequantize(CLI::App& root, const Context& context) {
  auto options = std::make_shared<DequantizeCommandOptions>();
  CLI::App* app = root.add_subcommand("dequantize", "Turn an output back into plain 16 or 32 bit weights");
  app->footer(kFooter);
  app->add_option("OUT", options->output, "What quantize wrote")->required()->type_name("");
  app->add_option("DIR", options->directory, "Directory to create")->required()->type_name("");
  app->add_option("--dtype", options->dtype, "bf16, f16, f32")->capture_default_str()->type_name("TYPE");
  app->add_flag("--overwrite", options->overwrite, "Replace DIR once the new output is complete");
  add_thread_option(*app, options->machine);
  add_memory_options(*app, options->machine);
  add_message_options(*app, options->machine);
  return {app, [&context, options] { run_dequantize(context, *options); }};
}

}  // namespace halfquad
