#include <memory>
#include <ostream>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "launcher/commands.h"
#include "launcher/help_formatter.h"
#include "launcher/options.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/synth.h"

namespace halfquad {
namespace {

constexpr char kFooter[] =
    "\nExamples:\n"
    "  halfquad synth ./rehearsal --preset llama-13b\n"
    "  halfquad synth ./small --preset llama-70b --layers 2 --seed 7\n"
    "  halfquad synth ./experts --preset deepseek-v3 --layers 4\n";

struct SynthCommandOptions {
  std::string directory;
  std::string preset = "tiny";
  std::optional<int> layers;
  std::uint64_t seed = 1;
  std::string dtype = "bf16";
  std::string shard_size = "5GB";
  MachineOptions machine;
};

void synth(const Context& context, const SynthCommandOptions& options) {
  SynthOptions synth;
  synth.preset = options.preset;
  synth.layers = options.layers;
  synth.seed = options.seed;
  synth.dtype = float_dtype_from_name(options.dtype, "--dtype");
  synth.shard_bytes = parse_size_option(options.shard_size, "--shard-size");
  synth.threads = options.machine.thread_count();

  ProgressCounters progress;
  ProgressTotals totals;
  totals.source_bytes = synth_bytes(synth);
  ProgressMeter meter(progress, totals, options.machine.progress_options(), "writing");
  synthesize(context.fs, options.directory, synth, progress, context.stop);
  meter.finish();
  context.out << fmt::format("{}: {}, {} of weights\n", quoted(options.directory), options.preset,
                             human_bytes(totals.source_bytes));
}

}  // namespace

Command add_synth(CLI::App& root, const Context& context) {
  auto options = std::make_shared<SynthCommandOptions>();
  CLI::App* app = root.add_subcommand("synth", "Write a synthetic checkpoint with the shapes of a known model");
  app->footer(kFooter);
  std::string presets;
  for (const std::string_view preset : synth_presets()) presets += (presets.empty() ? "" : ", ") + std::string(preset);
  app->add_option("DIR", options->directory, "Directory to create")->required()->type_name("");
  app->add_option("--preset", options->preset, presets)->capture_default_str()->type_name("NAME");
  app->add_option("--layers", options->layers, "Blocks instead of the preset's")
      ->check(quiet(CLI::Range(1, 10000)))
      ->type_name("N");
  app->add_option("--seed", options->seed, "Seed of the weights")->capture_default_str()->type_name("N");
  app->add_option("--dtype", options->dtype, "bf16, f16, f32: of what the model does not keep in FP8 or MXFP4")
      ->capture_default_str()
      ->type_name("TYPE");
  app->add_option("--shard-size", options->shard_size, "Largest weight file")->capture_default_str()->type_name("SIZE");
  add_thread_option(*app, options->machine);
  add_message_options(*app, options->machine);
  return {app, [&context, options] { synth(context, *options); }};
}

}  // namespace halfquad
