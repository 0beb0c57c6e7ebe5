#include <chrono>
#include <filesystem>
#include <memory>
#include <ostream>

#include <fmt/format.h>

#include "io/json.h"
#include "io/output_directory.h"
#include "launcher/commands.h"
#include "launcher/job.h"
#include "launcher/options.h"
#include "launcher/report.h"
#include "launcher/side_files.h"
#include "launcher/summary.h"
#include "runtime/check.h"
#include "runtime/machine.h"
#include "runtime/text.h"
#include "sharding/runner.h"

namespace halfquad {
namespace {

constexpr char kFooter[] =
    "\nRules look like REGEX=bits:3,group-size:32,axis:0,solver:rtn,iters:10,round-zero:on,per-tensor:on,keep:on.\n"
    "The regular expression is searched in the tensor's name. By default the 2-D weights of linear layers inside\n"
    "the blocks are quantized; embeddings, heads, norms, biases, routers, convolutions and vision towers are kept.\n"
    "\nExamples:\n"
    "  halfquad quantize ./model ./model-hqq4\n"
    "  halfquad quantize ./model ./out --bits 3 --rule 'layers\\.0\\.=bits:8' --skip o_proj\n"
    "  halfquad quantize ./model ./out --memory 512MiB --threads 8 --progress plain\n"
    "\nNothing has the name OUT before it is complete: work goes to OUT.partial.\n"
    "A first SIGINT, SIGTERM or SIGUSR1 stops cleanly with exit code 75, a second one at once.\n";

// Room for headers, configuration and the file system's own blocks beside the weights.
constexpr std::uint64_t kDiskSlack = 16 << 20;

struct QuantizeOptions {
  std::string model;
  std::string out;
  bool overwrite = false;
  SpecOptions spec;
  MachineOptions machine;
};

/// After OUT.partial is made, so that what a dead run left there is gone and does not count as used.
void require_disk(FileSystem& files, const OutputDirectory& out, const Job& job) {
  const std::uint64_t needed = job.layout.data_bytes() + kDiskSlack;
  const std::uint64_t free = files.free_bytes(out.path_of(kWeightsName).parent_path());
  HALFQUAD_REQUIRE(free >= needed, kIo,
                   fmt::format("the output needs {}, but the file system of {} has {} free; choose another OUT or make "
                               "room",
                               human_bytes(needed), quoted(out.final_path().string()), human_bytes(free)));
}

RunResult write_weights(const Context& context, const Job& job, const QuantizeOptions& options,
                        const std::function<std::unique_ptr<Solver>()>& make_solver, SafetensorsWriter& writer,
                        RunFacts& facts) {
  RunOptions run;
  run.threads = facts.threads;
  run.memory_bytes = facts.memory_bytes;
  run.read_mode = options.machine.read_mode();
  run.nonfinite = options.spec.nonfinite == "zero" ? NonFinite::kZero : NonFinite::kError;
  run.make_solver = make_solver;

  ProgressCounters progress;
  const ProgressTotals totals{job.plan.source_bytes, job.plan.weights, job.checkpoint.tensors().size()};
  ProgressMeter meter(progress, totals, options.machine.progress_mode(), "quantizing");
  RunResult result = run_plan(context.fs, job.checkpoint, job.layout, job.plan, writer, run, progress, context.stop);
  writer.finish();
  meter.finish();
  facts.bytes_read = progress.bytes_read.load();
  facts.bytes_written = progress.bytes_written.load();
  facts.output_bytes = writer.file_bytes();
  return result;
}

/// The job between the creation of OUT.partial and its renaming.
RunResult fill_output(const Context& context, const Job& job, const QuantizeOptions& options,
                      const std::vector<std::string>& command, OutputDirectory& out, RunFacts& facts) {
  const auto start = std::chrono::steady_clock::now();
  const auto make_solver = options.machine.solver_factory();
  facts.solver = make_solver()->name();
  const auto entries = job.layout.entries();
  SafetensorsWriter writer(
      context.fs, out.path_of(kWeightsName), {entries.begin(), entries.end()}, {{"format", "pt"}},
      options.machine.read_mode() == ReadMode::kBuffered ? WriteMode::kBuffered : WriteMode::kDirect);
  RunResult result = write_weights(context, job, options, make_solver, writer, facts);

  if (job.checkpoint.config()) {
    write_text(context.fs, out.path_of(kConfigName), pretty_json(hqq_config(job.checkpoint, job.decisions)));
  }
  copy_side_files(context.fs, job.checkpoint, out);
  facts.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  facts.peak_resident_bytes = peak_resident_bytes();
  write_text(context.fs, out.path_of(kReportName),
             pretty_json(build_report(job, options.spec, result, facts, command)));
  return result;
}

void throw_interrupted() {
  throw Error(ErrorCode::kInterrupted,
              "interrupted by a signal: no output was written; run the same command again (this version starts over)");
}

void quantize(const Context& context, const QuantizeOptions& options, const std::vector<std::string>& command) {
  Log log(options.machine.level());
  RunFacts facts;
  facts.threads = options.machine.thread_count();
  facts.memory_bytes = options.machine.memory_bytes();
  static_cast<void>(options.machine.solver_factory());  // an unknown --isa shows before any work
  // OutputDirectory decides; this only spares a long scan whose result could not be kept.
  HALFQUAD_REQUIRE(options.spec.nonfinite != "keep-original" || options.overwrite ||
                       context.fs.kind(options.out) == FileKind::kMissing,
                   kUsage, fmt::format("{} exists; choose another OUT or pass --overwrite", quoted(options.out)));

  const Job job = prepare_job(context, options.model, options.spec, options.machine);
  const std::vector<std::string> warnings = job_warnings(job);
  for (const std::string& warning : warnings) log.warn(warning);
  if (!job.checkpoint.config()) {
    log.warn("the checkpoint has no config.json, so the output has none: loaders will need one beside it");
  }
  require_memory(job.plan, facts.memory_bytes);

  OutputDirectory out(context.fs, options.out, options.model, options.overwrite ? Overwrite::kYes : Overwrite::kNo);
  try {
    require_disk(context.fs, out, job);
    const RunResult result = fill_output(context, job, options, command, out, facts);
    if (context.stop.requested()) throw_interrupted();
    out.commit();
    context.out << summary_text(job, result, facts, out.final_path());
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kInterrupted) throw_interrupted();
    discard_quietly(out);
    throw;
  } catch (...) {
    discard_quietly(out);
    throw;
  }
}

}  // namespace

Command add_quantize(CLI::App& root, const Context& context, const std::vector<std::string>& arguments) {
  auto options = std::make_shared<QuantizeOptions>();
  CLI::App* app = root.add_subcommand("quantize", "Quantize a checkpoint into a new directory");
  app->footer(kFooter);
  app->add_option("MODEL", options->model, "Checkpoint: a Hugging Face directory or one .safetensors file")
      ->required()
      ->type_name("");
  app->add_option("OUT", options->out, "Directory to create")->required()->type_name("");
  app->add_flag("--overwrite", options->overwrite, "Replace OUT once the new output is complete");
  add_spec_options(*app, options->spec);
  add_thread_option(*app, options->machine);
  add_memory_options(*app, options->machine);
  add_solver_options(*app, options->machine);
  add_message_options(*app, options->machine);
  return {app, [&context, options, &arguments] {
            std::vector<std::string> command{"halfquad"};
            command.insert(command.end(), arguments.begin(), arguments.end());
            quantize(context, *options, command);
          }};
}

}  // namespace halfquad
