#include <memory>
#include <optional>
#include <ostream>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "launcher/cli.h"
#include "launcher/commands.h"
#include "launcher/devices.h"
#include "launcher/environment.h"
#include "launcher/exit_code.h"
#include "launcher/help_formatter.h"
#include "launcher/job.h"
#include "launcher/measured_importance.h"
#include "launcher/options.h"
#include "launcher/quantize_job.h"
#include "launcher/run_quantize.h"
#include "runtime/machine.h"
#include "runtime/text.h"
#include "sharding/job_follower.h"
#include "sharding/job_leader.h"

namespace halfquad {
namespace {

constexpr char kFooter[] =
    "\nRules look like REGEX=bits:3,group-size:32,axis:0,solver:rtn,iters:10,starts:3,importance:none,round-zero:on,\n"
    "per-tensor:on,keep:on, or REGEX=type:Q6_K.\n"
    "The regular expression is searched in the tensor's name. By default the 2-D weights of linear layers inside\n"
    "the blocks are quantized; embeddings, heads, norms, biases, routers, convolutions and vision towers are kept.\n"
    "\nA target size is that of all tensors of the output, kept ones too, without headers and side files; bits per\n"
    "weight are those of the quantized weights. The settings are the ones with the least expected error within it; "
    "two\n"
    "neighbouring widths are mixed by kinds of layers, attention first and experts last. Rules go over the choice.\n"
    "\nExamples:\n"
    "  halfquad quantize ./model ./model-hqq4\n"
    "  halfquad quantize ./model ./out --bits 3 --rule 'layers\\.0\\.=bits:8' --skip o_proj\n"
    "  halfquad quantize ./model ./out --target-size 24GiB     the best that takes no more\n"
    "  halfquad quantize ./model ./out --target-bpw 3.5 --format mlx --embeddings 6\n"
    "  halfquad quantize ./model ./out --importance ./importance.safetensors    what halfquad importance measured, or "
    "an\n"
    "                                                                           imatrix: mostly the best models\n"
    "  halfquad quantize ./model ./out --memory 512MiB --threads 8 --progress plain\n"
    "  halfquad quantize ./model ./out --format compressed-tensors    for vLLM\n"
    "  halfquad quantize ./model ./model.gguf               for llama.cpp\n"
    "  halfquad quantize ./model-f16.gguf ./model-q4.gguf   of any architecture\n"
    "  mpirun -n 8 halfquad quantize ./model ./out          the same bytes, by eight processes\n"
    "\nNothing has the name OUT before it is complete: work goes to OUT.partial. An interrupted or failed job is\n"
    "continued by the same command, with any number of ranks.\n"
    "A first SIGINT, SIGTERM or SIGUSR1 stops cleanly with exit code 75, a second one at once.\n";

/// As rank 0, which speaks for all. Before there is a JobLeader: this is between the ranks alone.
QuantizeOptions with_measured(const Context& context, const QuantizeOptions& options, Communicator& communicator,
                              JobMonitor& monitor) {
  QuantizeOptions measured = options;
  try {
    measured.spec.measured = measure_for_job(context, options, communicator, &monitor);
  } catch (const Error& error) {
    const int code = report_error(context, error);
    monitor.end(code, error.what());
    throw QuietExit{code};
  }
  return measured;
}

void lead(const Context& context, const QuantizeOptions& options, const std::vector<std::string>& command,
          Communicator& communicator) {
  Log log(options.machine.level(), options.machine.format());
  JobMonitor monitor(context.fs, options.monitor, options.machine.progress_options().interval,
                     {.command = command.at(1), .arguments = command, .output = options.out},
                     [&log](const std::string& text) { log.warn(text); });
  const auto warn = [&](const std::string& text) {
    monitor.count_warning();
    log.warn(text);
  };
  const QuantizeOptions measured = with_measured(context, options, communicator, monitor);
  JobLeader leader(communicator, host_name(), context.stop, warn);
  try {
    const Leading by{leader, communicator.local_size(), warn, {}, &monitor};
    static_cast<void>(lead_job(context, measured, command, by));
    monitor.end(kExitDone);
  } catch (const Error& error) {
    const bool lost = leader.fail(error);
    // While the ranks are still joined: the first that ends in error makes mpirun kill the rest.
    const int code = report_error(context, error);
    monitor.end(code, error.what());
    if (lost) communicator.abort(code);
    throw QuietExit{code};
  }
}

/// A rank other than 0: silent, since rank 0 speaks for all.
void follow(const Context& context, const QuantizeOptions& options, Communicator& communicator) {
  QuantizeOptions silent = options;
  silent.machine.progress = "none";
  try {
    silent.spec.measured = measure_for_job(context, silent, communicator, nullptr);
  } catch (const Error& error) {
    throw QuietExit{exit_code(error.code())};
  }
  JobFollower follower(communicator, host_name(), context.stop);
  std::optional<Error> end;
  try {
    try {
      const auto find = [&](const RankScan& scan, ProgressCounters&) { return follower.find_nonfinite(scan); };
      const Job job = silent.prepare(context, silent, {.processes = communicator.local_size(), .find = find});
      Trace trace(communicator.rank());
      Log log(options.machine.level(), options.machine.format());
      const auto warn = [&](const std::string& text) {
        log.warn(fmt::format("rank {} on {}: {}", communicator.rank(), host_name(), text));
      };
      const std::unique_ptr<DeviceSet> devices = make_device_set(options.devices, options.machine, warn);
      end = follower.run(rank_job(context, job, silent, communicator.local_size(),
                                  {devices.get(), options.trace.empty() ? nullptr : &trace}));
    } catch (const Error& error) {
      end = follower.fail(error);
    }
  } catch (const Error& error) {
    const std::string text = fmt::format("rank {}: {}", communicator.rank(), error.what());
    communicator.abort(report_error(context, Error(error.code(), text, error.where())));
  }
  if (end) throw QuietExit{exit_code(end->code())};
}

}  // namespace

void run_quantize(const Context& context, const QuantizeOptions& options, const std::vector<std::string>& command) {
  static_cast<void>(options.machine.solver_factory());  // an unknown --isa shows before any work
  check_device_options(options.devices);
  if (const auto hint = connection_hint(context.environment))
    Log(options.machine.level(), options.machine.format()).warn(*hint);
  const std::unique_ptr<Communicator> communicator = join_job(context.environment);
  if (communicator->rank() == 0) {
    lead(context, options, command, *communicator);
  } else {
    follow(context, options, *communicator);
  }
}

void add_output_options(CLI::App& app, QuantizeOptions& options) {
  app.add_flag("--overwrite", options.overwrite, "Replace OUT once the new output is complete");
  app.add_flag("--fresh", options.fresh, "Discard what an interrupted run finished instead of continuing it");
}

void add_rank_options(CLI::App& app, QuantizeOptions& options) {
  app.add_option("--schedule", options.schedule,
                 "Several ranks: dynamic lets those that are done help the others; static gives each a fixed share")
      ->capture_default_str()
      ->check(quiet(CLI::IsMember({"dynamic", "static"})))
      ->type_name("HOW")
      ->group("Machine");
  app.add_option("--assembly", options.assembly,
                 "Several ranks: direct has each write its results in place; gather has one rank a file write what "
                 "the others send it; auto is direct for ranks that see OUT and gather for the rest")
      ->capture_default_str()
      ->check(quiet(CLI::IsMember({"auto", "direct", "gather"})))
      ->type_name("HOW")
      ->group("Machine");
}

void add_trace_option(CLI::App& app, QuantizeOptions& options) {
  app.add_option("--trace", options.trace,
                 "Write a time line of every rank's threads to FILE (Chrome trace JSON, for ui.perfetto.dev)")
      ->type_name("FILE")
      ->group("Messages");
}

Command add_quantize(CLI::App& root, const Context& context, const std::vector<std::string>& arguments) {
  auto options = std::make_shared<QuantizeOptions>();
  CLI::App* app = root.add_subcommand("quantize", "Quantize a checkpoint into a new directory");
  app->footer(kFooter);
  app->add_option("MODEL", options->model,
                  "Checkpoint: a Hugging Face directory, or one .safetensors, PyTorch or .gguf file")
      ->required()
      ->type_name("");
  app->add_option("OUT", options->out, "Directory to create, or one .gguf, .h5 or .safetensors file")
      ->required()
      ->type_name("");
  add_output_options(*app, *options);
  add_spec_options(*app, options->spec);
  add_thread_option(*app, options->machine);
  add_memory_options(*app, options->machine);
  add_device_options(*app, options->devices);
  add_solver_options(*app, options->machine);
  add_rank_options(*app, *options);
  add_message_options(*app, options->machine);
  add_monitor_options(*app, options->monitor);
  add_trace_option(*app, *options);
  options->prepare = [](const Context& at, const QuantizeOptions& chosen, const NonfiniteSearch& search) {
    return prepare_job(at, chosen.model, chosen.spec, chosen.machine, search);
  };
  options->measures = true;
  return {app,
          [&context, options, &arguments] {
            options->single_file = names_single_file(options->out, options->spec);
            run_quantize(context, *options, command_line(arguments));
          },
          /*with_ranks=*/true};
}

}  // namespace halfquad
