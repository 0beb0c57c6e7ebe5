#include "launcher/quantize_job.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>
#include <ostream>
#include <string_view>

#include <fmt/format.h>

#include "io/json.h"
#include "io/output_directory.h"
#include "launcher/side_files.h"
#include "launcher/summary.h"
#include "launcher/version.h"
#include "runtime/check.h"
#include "runtime/machine.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

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

}  // namespace

RankJob rank_job(const Context& context, const Job& job, const QuantizeOptions& options, int processes,
                 const RankTools& tools) {
  RunOptions run;
  run.trace = tools.trace;
  run.devices = tools.devices;
  run.devices_only = options.devices.only;
  run.threads = options.machine.thread_count(processes);
  run.memory_bytes = options.machine.memory_bytes(processes);
  run.read_mode = options.machine.read_mode();
  run.nonfinite = options.spec.nonfinite == "zero" ? NonFinite::kZero : NonFinite::kError;
  run.make_solver = options.machine.solver_factory();
  run.importance = job.importance.get();
  if (job.has_measured()) run.memory_bytes -= std::min<std::uint64_t>(run.memory_bytes, job.measured->file->size());
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
          .fingerprint = fingerprint_of(job.checkpoint, job.layout, options.spec.nonfinite, HALFQUAD_VERSION,
                                        importance_digest(job)),
          .measured = job.has_measured() ? job.measured->file.get() : nullptr};
}

namespace {

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
  if (!options.single_file) {
    copy_side_files(context.fs, job.checkpoint, out);
    copy_enclosed_files(context.fs, job.enclosed, out);
  }
  facts.peak_resident_bytes = peak_resident_bytes();
  write_text(context.fs, out.path_of(kReportName),
             pretty_json(build_report(job, options.spec, result, facts, command)));
}

/// The job between the creation of OUT.partial and its renaming.
RunResult fill_output(const Context& context, const Job& job, const QuantizeOptions& options, const RankJob& ranks,
                      const std::vector<std::string>& command, const Leading& by, OutputDirectory& out,
                      RunFacts& facts) {
  JobLeader& leader = by.leader;
  const auto start = std::chrono::steady_clock::now();
  facts.threads = ranks.run.threads;
  facts.memory_bytes = ranks.run.memory_bytes;
  facts.solver = ranks.run.make_solver()->name();

  ProgressCounters progress;
  const ProgressTotals totals{job.plan.source_bytes, job.plan.weights, job.checkpoint.tensors().size()};
  RankBoard board;
  leader.show_ranks_on(board);
  const std::string phase = job.converted ? "converting" : "quantizing";
  ProgressMeter meter(progress, totals, options.machine.progress_options(), phase, &board);
  const std::shared_ptr<void> watching = by.watch ? by.watch(progress, totals) : nullptr;
  const RunResult result = [&] {
    std::optional<JobMonitor::Stage> stage;
    if (by.monitor != nullptr) stage.emplace(*by.monitor, phase, progress, totals, &board);
    return leader.run(ranks, out.resumed(), progress);
  }();
  meter.finish();
  if (by.monitor != nullptr) by.monitor->phase("finishing");
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

std::string saved_text(std::uint64_t saved, std::uint64_t whole) {
  if (saved == 0 || whole == 0) return "what is finished is kept";
  return fmt::format("{:.1f} % of the work ({} of {} of the source) is kept",
                     100 * static_cast<double>(saved) / static_cast<double>(whole), human_bytes(saved),
                     human_bytes(whole));
}

std::optional<OutputDirectory::SingleFile> single_file(const Job& job, const QuantizeOptions& options) {
  if (!options.single_file) return std::nullopt;
  HALFQUAD_REQUIRE(job.layout.files().size() == 1, kUsage,
                   fmt::format("{} names one file, but the output would be {}; give a directory, or leave out "
                               "--max-shard-size",
                               quoted(options.out), job.layout.files().size()));
  return OutputDirectory::SingleFile{job.layout.files()[0].name, kReportName};
}

void quantize_into(const Context& context, const QuantizeOptions& options, const RankJob& ranks,
                   const std::vector<std::string>& command, const Leading& by, FinishedJob& finished) {
  const Job& job = finished.job;
  OutputDirectory out(context.fs, options.out, options.model, options.overwrite ? Overwrite::kYes : Overwrite::kNo,
                      options.fresh ? Leftover::kDiscard : Leftover::kKeep, single_file(job, options));
  try {
    if (!out.resumed()) require_disk(context.fs, out, job);
    finished.result = fill_output(context, job, options, ranks, command, by, out, finished.facts);
    out.commit();
    by.leader.succeed();
    context.out << summary_text(job, finished.result, finished.facts, out.final_path());
  } catch (const Error& error) {
    if (!worth_keeping(error, out, ranks)) {
      discard_quietly(out);
      throw;
    }
    if (error.code() == ErrorCode::kUsage) throw;  // it says what to do instead of the same again
    throw Error(
        error.code(),
        fmt::format("{}; {} in {}: run the same command again, with any number of ranks, to continue", error.what(),
                    saved_text(by.leader.saved_source_bytes(), job.plan.source_bytes), quoted(ranks.partial.string())),
        error.where());
  }
}

}  // namespace

FinishedJob lead_job(const Context& context, const QuantizeOptions& options, const std::vector<std::string>& command,
                     const Leading& by) {
  // OutputDirectory decides; this only spares a long scan whose result could not be kept.
  HALFQUAD_REQUIRE(options.spec.nonfinite != "keep-original" || options.overwrite ||
                       context.fs.kind(options.out) == FileKind::kMissing,
                   kUsage, fmt::format("{} exists; choose another OUT or pass --overwrite", quoted(options.out)));
  const auto find = [&by](const RankScan& scan, ProgressCounters& shown) {
    return by.leader.find_nonfinite(scan, shown);
  };
  FinishedJob finished{
      options.prepare(context, options, {.processes = by.processes, .find = find, .monitor = by.monitor}), {}, {}};
  const Job& job = finished.job;
  for (const std::string& warning : job_warnings(job)) by.warn(warning);
  if (!job.checkpoint.config() && job.checkpoint.gguf() == nullptr) {
    by.warn("the checkpoint has no config.json, so the output has none: loaders will need one beside it");
  }
  Trace trace(0);
  const std::unique_ptr<DeviceSet> devices = make_device_set(options.devices, options.machine, by.warn);
  const RankJob ranks =
      rank_job(context, job, options, by.processes, {devices.get(), options.trace.empty() ? nullptr : &trace});
  quantize_into(context, options, ranks, command, by, finished);
  if (!options.trace.empty()) write_text(context.fs, options.trace, trace.json());
  return finished;
}

}  // namespace halfquad
