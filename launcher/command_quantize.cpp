#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <ostream>
#include <string_view>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "io/json.h"
#include "io/output_directory.h"
#include "launcher/cli.h"
#include "launcher/commands.h"
#include "launcher/devices.h"
#include "launcher/environment.h"
#include "launcher/exit_code.h"
#include "launcher/help_formatter.h"
#include "launcher/job.h"
#include "launcher/options.h"
#include "launcher/report.h"
#include "launcher/run_quantize.h"
#include "launcher/side_files.h"
#include "launcher/summary.h"
#include "launcher/version.h"
#include "runtime/check.h"
#include "runtime/machine.h"
#include "runtime/text.h"
#include "sharding/job_follower.h"
#include "sharding/job_leader.h"
#include "sharding/rank_job.h"

namespace halfquad {
namespace {

constexpr char kFooter[] =
    "\nRules look like REGEX=bits:3,group-size:32,axis:0,solver:rtn,iters:10,round-zero:on,per-tensor:on,keep:on, or\n"
    "for GGUF REGEX=type:Q6_K.\n"
    "The regular expression is searched in the tensor's name. By default the 2-D weights of linear layers inside\n"
    "the blocks are quantized; embeddings, heads, norms, biases, routers, convolutions and vision towers are kept.\n"
    "\nExamples:\n"
    "  halfquad quantize ./model ./model-hqq4\n"
    "  halfquad quantize ./model ./out --bits 3 --rule 'layers\\.0\\.=bits:8' --skip o_proj\n"
    "  halfquad quantize ./model ./out --memory 512MiB --threads 8 --progress plain\n"
    "  halfquad quantize ./model ./out --format compressed-tensors    for vLLM\n"
    "  halfquad quantize ./model ./model.gguf               for llama.cpp\n"
    "  halfquad quantize ./model-f16.gguf ./model-q4.gguf   of any architecture\n"
    "  mpirun -n 8 halfquad quantize ./model ./out          the same bytes, by eight processes\n"
    "\nNothing has the name OUT before it is complete: work goes to OUT.partial. An interrupted or failed job is\n"
    "continued by the same command, with any number of ranks.\n"
    "A first SIGINT, SIGTERM or SIGUSR1 stops cleanly with exit code 75, a second one at once.\n";

// Room for headers, configuration and the file system's own blocks beside the weights.
constexpr std::uint64_t kDiskSlack = 16 << 20;

/// After OUT.partial is made, so that what a dead run left there is gone and does not count as used.
void require_disk(FileSystem& files, const OutputDirectory& out, const Job& job) {
  const std::uint64_t needed = job.layout.file_bytes() + kDiskSlack;
  const std::uint64_t free = files.free_bytes(out.path_of(kWeightsName).parent_path());
  HALFQUAD_REQUIRE(free >= needed, kIo,
                   fmt::format("the output needs {}, but the file system of {} has {} free; choose another OUT or make "
                               "room",
                               human_bytes(needed), quoted(out.final_path().string()), human_bytes(free)));
}

struct NamedContainer {
  std::string_view extension;
  Container container;
};
constexpr std::array kNamedContainers = {
    NamedContainer{".gguf", Container::kGguf}, NamedContainer{".h5", Container::kHdf5},
    NamedContainer{".hdf5", Container::kHdf5}, NamedContainer{".safetensors", Container::kSafetensors}};

}  // namespace

bool names_single_file(const std::string& out, SpecOptions& spec) {
  const std::string extension = std::filesystem::path(out).extension().string();
  const auto named = std::ranges::find(kNamedContainers, extension, &NamedContainer::extension);
  if (named == kNamedContainers.end()) return false;
  if (spec.format.empty() && named->container == Container::kGguf) spec.format = "gguf";
  if (spec.format.empty() && named->container == Container::kHdf5) spec.format = "hdf5";
  HALFQUAD_REQUIRE(spec.output_format().container() == named->container, kUsage,
                   fmt::format("{}: --format {} does not make {} files; give OUT another name", quoted(out),
                               spec.output_format().name(), extension));
  return true;
}

namespace {

Assembly assembly_from_name(const std::string& name) {
  if (name == "direct") return Assembly::kDirect;
  return name == "gather" ? Assembly::kGather : Assembly::kAuto;
}

/// What a rank works with beside its cores and memory.
struct Tools {
  DeviceSet* devices = nullptr;
  Trace* trace = nullptr;
};

RankJob rank_job(const Context& context, const Job& job, const QuantizeOptions& options, int processes,
                 const Tools& tools) {
  RunOptions run;
  run.trace = tools.trace;
  run.devices = tools.devices;
  run.devices_only = options.devices.only;
  run.threads = options.machine.thread_count(processes);
  run.memory_bytes = options.machine.memory_bytes(processes);
  run.read_mode = options.machine.read_mode();
  run.nonfinite = options.spec.nonfinite == "zero" ? NonFinite::kZero : NonFinite::kError;
  run.make_solver = options.machine.solver_factory();
  require_memory(job.plan, run.memory_bytes);
  return {.fs = context.fs,
          .checkpoint = job.checkpoint,
          .layout = job.layout,
          .plan = job.plan,
          .partial = partial_path(options.out),
          .write_mode = run.read_mode == ReadMode::kBuffered ? WriteMode::kBuffered : WriteMode::kDirect,
          .run = run,
          .schedule = options.schedule == "static" ? Schedule::kStatic : Schedule::kDynamic,
          .assembly = assembly_from_name(options.assembly),
          .fingerprint = fingerprint_of(job.checkpoint, job.layout, options.spec.nonfinite, HALFQUAD_VERSION)};
}

/// Everything of the output but the weights, which are complete.
void write_rest(const Context& context, const Job& job, const QuantizeOptions& options,
                const std::vector<std::string>& command, const RunResult& result, OutputDirectory& out,
                RunFacts& facts) {
  if (job.checkpoint.config() && !options.single_file) {
    write_text(context.fs, out.path_of(kConfigName),
               pretty_json(job.layout.format().config(job.checkpoint, job.decisions)));
  }
  if (const std::string index = index_text(job.layout); !index.empty() && !options.single_file) {
    write_text(context.fs, out.path_of(kIndexName), index);
  }
  if (!options.single_file) copy_side_files(context.fs, job.checkpoint, out);
  facts.peak_resident_bytes = peak_resident_bytes();
  write_text(context.fs, out.path_of(kReportName),
             pretty_json(build_report(job, options.spec, result, facts, command)));
}

/// The job between the creation of OUT.partial and its renaming.
RunResult fill_output(const Context& context, const Job& job, const QuantizeOptions& options, const RankJob& ranks,
                      const std::vector<std::string>& command, JobLeader& leader, OutputDirectory& out,
                      RunFacts& facts) {
  const auto start = std::chrono::steady_clock::now();
  facts.threads = ranks.run.threads;
  facts.memory_bytes = ranks.run.memory_bytes;
  facts.solver = ranks.run.make_solver()->name();

  ProgressCounters progress;
  const ProgressTotals totals{job.plan.source_bytes, job.plan.weights, job.checkpoint.tensors().size()};
  ProgressMeter meter(progress, totals, options.machine.progress_mode(), job.converted ? "converting" : "quantizing");
  const RunResult result = leader.run(ranks, out.resumed(), progress);
  meter.finish();
  facts.bytes_read = progress.bytes_read.load();
  facts.bytes_written = progress.bytes_written.load();
  facts.output_bytes = job.layout.file_bytes();
  facts.ranks = leader.ranks();
  facts.assembly = leader.assembly();
  facts.resume = leader.resume_facts();
  facts.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  write_rest(context, job, options, command, result, out, facts);
  if (context.stop.requested()) throw Error(ErrorCode::kInterrupted, "interrupted by a signal");
  return result;
}

/// Whether a rerun can continue what is in OUT.partial: it holds finished work, and the error is not one that only
/// other options or another source can mend.
bool worth_keeping(const Error& error, const OutputDirectory& out, const RankJob& ranks) {
  if (out.resumed()) return true;
  return error.code() != ErrorCode::kBadInput && error.code() != ErrorCode::kUsage &&
         JobFolder(ranks.fs, ranks.partial).fingerprint().has_value();
}

std::optional<OutputDirectory::SingleFile> single_file(const Job& job, const QuantizeOptions& options) {
  if (!options.single_file) return std::nullopt;
  HALFQUAD_REQUIRE(job.layout.files().size() == 1, kUsage,
                   fmt::format("{} names one file, but the output would be {}; give a directory, or leave out "
                               "--max-shard-size",
                               quoted(options.out), job.layout.files().size()));
  return OutputDirectory::SingleFile{job.layout.files()[0].name, kReportName};
}

void quantize_into(const Context& context, const Job& job, const QuantizeOptions& options, const RankJob& ranks,
                   const std::vector<std::string>& command, JobLeader& leader) {
  OutputDirectory out(context.fs, options.out, options.model, options.overwrite ? Overwrite::kYes : Overwrite::kNo,
                      options.fresh ? Leftover::kDiscard : Leftover::kKeep, single_file(job, options));
  try {
    if (!out.resumed()) require_disk(context.fs, out, job);
    RunFacts facts;
    const RunResult result = fill_output(context, job, options, ranks, command, leader, out, facts);
    out.commit();
    leader.succeed();
    context.out << summary_text(job, result, facts, out.final_path());
  } catch (const Error& error) {
    if (!worth_keeping(error, out, ranks)) {
      discard_quietly(out);
      throw;
    }
    if (error.code() == ErrorCode::kUsage) throw;  // it says what to do instead of the same again
    throw Error(error.code(),
                fmt::format("{}; what is finished is kept in {}: run the same command again to continue", error.what(),
                            quoted(ranks.partial.string())),
                error.where());
  }
}

void lead(const Context& context, const QuantizeOptions& options, const std::vector<std::string>& command,
          Communicator& communicator) {
  Log log(options.machine.level());
  JobLeader leader(communicator, host_name(), context.stop, [&log](const std::string& text) { log.warn(text); });
  try {
    // OutputDirectory decides; this only spares a long scan whose result could not be kept.
    HALFQUAD_REQUIRE(options.spec.nonfinite != "keep-original" || options.overwrite ||
                         context.fs.kind(options.out) == FileKind::kMissing,
                     kUsage, fmt::format("{} exists; choose another OUT or pass --overwrite", quoted(options.out)));
    const auto find = [&](const RankScan& scan, ProgressCounters& shown) { return leader.find_nonfinite(scan, shown); };
    const Job job = options.prepare(context, options, {.processes = communicator.local_size(), .find = find});
    for (const std::string& warning : job_warnings(job)) log.warn(warning);
    if (!job.checkpoint.config() && job.checkpoint.gguf() == nullptr) {
      log.warn("the checkpoint has no config.json, so the output has none: loaders will need one beside it");
    }
    Trace trace(0);
    const std::unique_ptr<DeviceSet> devices =
        make_device_set(options.devices, options.machine, [&log](const std::string& text) { log.warn(text); });
    const RankJob ranks = rank_job(context, job, options, communicator.local_size(),
                                   {devices.get(), options.trace.empty() ? nullptr : &trace});
    quantize_into(context, job, options, ranks, command, leader);
    if (!options.trace.empty()) write_text(context.fs, options.trace, trace.json());
  } catch (const Error& error) {
    const bool lost = leader.fail(error);
    // While the ranks are still joined: the first that ends in error makes mpirun kill the rest.
    const int code = report_error(context, error);
    if (lost) communicator.abort(code);
    throw QuietExit{code};
  }
}

/// A rank other than 0: silent, since rank 0 speaks for all.
void follow(const Context& context, const QuantizeOptions& options, Communicator& communicator) {
  QuantizeOptions silent = options;
  silent.machine.progress = "none";
  JobFollower follower(communicator, host_name(), context.stop);
  std::optional<Error> end;
  try {
    try {
      const auto find = [&](const RankScan& scan, ProgressCounters&) { return follower.find_nonfinite(scan); };
      const Job job = silent.prepare(context, silent, {.processes = communicator.local_size(), .find = find});
      Trace trace(communicator.rank());
      Log log(options.machine.level());
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
    context.err << "halfquad: error: rank " << communicator.rank() << ": " << error.what() << '\n' << std::flush;
    communicator.abort(exit_code(error.code()));
  }
  if (end) throw QuietExit{exit_code(end->code())};
}

}  // namespace

void run_quantize(const Context& context, const QuantizeOptions& options, const std::vector<std::string>& command) {
  static_cast<void>(options.machine.solver_factory());  // an unknown --isa shows before any work
  check_device_options(options.devices);
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
  add_trace_option(*app, *options);
  options->prepare = [](const Context& at, const QuantizeOptions& chosen, const NonfiniteSearch& search) {
    return prepare_job(at, chosen.model, chosen.spec, chosen.machine, search);
  };
  return {app,
          [&context, options, &arguments] {
            std::vector<std::string> command{"halfquad"};
            command.insert(command.end(), arguments.begin(), arguments.end());
            options->single_file = names_single_file(options->out, options->spec);
            run_quantize(context, *options, command);
          },
          /*with_ranks=*/true};
}

}  // namespace halfquad
