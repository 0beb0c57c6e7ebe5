#include <condition_variable>
#include <exception>
#include <halfquad/checkpoint.h>
#include <memory>
#include <mutex>
#include <sstream>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "io/posix_file_system.h"
#include "launcher/inventory.h"
#include "launcher/library/settings.h"
#include "launcher/measured_importance.h"
#include "launcher/quantize_job.h"
#include "runtime/check.h"
#include "runtime/machine.h"
#include "runtime/text.h"
#include "sharding/local_run.h"

namespace halfquad {
namespace {

/// Tells the caller's function how far the job is, from a thread of its own. What it throws stops the job.
class ProgressCaller {
 public:
  ProgressCaller(const CheckpointJob& job, StopFlag& stop) : job_(job), stop_(stop) {}

  /// Calls before any work, where what is thrown keeps it from beginning, and goes on until the returned object ends,
  /// with one last call.
  [[nodiscard]] std::shared_ptr<void> watch(const ProgressCounters& counters, const ProgressTotals& totals) {
    if (!job_.progress) return nullptr;
    try {
      job_.progress({.source_bytes = totals.source_bytes, .weights = totals.weights});
    } catch (...) {
      thrown_ = std::current_exception();
      throw;
    }
    return std::make_shared<Watch>(*this, counters, totals);
  }

  void rethrow() const {
    if (thrown_) std::rethrow_exception(thrown_);
  }

 private:
  class Watch {
   public:
    Watch(ProgressCaller& caller, const ProgressCounters& counters, const ProgressTotals& totals)
        : caller_(caller), counters_(counters), totals_(totals), thread_([this](const std::stop_token& ended) {
            std::mutex mutex;
            std::unique_lock lock(mutex);
            std::condition_variable_any tick;
            while (
                !tick.wait_for(lock, ended, caller_.job_.progress_interval, [&] { return ended.stop_requested(); })) {
              call();
            }
            call();
          }) {}

   private:
    void call() noexcept {
      if (caller_.thrown_) return;
      const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start_;
      try {
        caller_.job_.progress({.source_bytes_done = counters_.source_bytes_done.load(),
                               .source_bytes = totals_.source_bytes,
                               .weights_done = counters_.weights_done.load(),
                               .weights = totals_.weights,
                               .seconds = passed.count()});
      } catch (...) {
        caller_.thrown_ = std::current_exception();
        caller_.stop_.request();
      }
    }

    ProgressCaller& caller_;
    const ProgressCounters& counters_;
    const ProgressTotals totals_;
    const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
    std::jthread thread_;  // last: it uses all of the above
  };

  const CheckpointJob& job_;
  StopFlag& stop_;
  std::exception_ptr thrown_;  // written by the watch's thread, read when that has ended
};

std::string option_of(NonfiniteWeights policy) {
  if (policy == NonfiniteWeights::kZero) return "zero";
  return policy == NonfiniteWeights::kKeepOriginal ? "keep-original" : "error";
}

SpecOptions spec_options(const CheckpointJob& job) {
  SpecOptions spec;
  if (job.bits) spec.bits = name_of(width_of(*job.bits));
  if (job.group_size) spec.group_size = *job.group_size == 0 ? "row" : std::to_string(*job.group_size);
  HALFQUAD_REQUIRE(!job.axis || *job.axis == 0 || *job.axis == 1, kUsage,
                   fmt::format("axis is {}; choose 0 or 1", *job.axis));
  spec.axis = job.axis;
  if (const auto solver = solver_of(job.method)) spec.solver = name_of(*solver);
  HALFQUAD_REQUIRE(job.steps >= 0 && job.steps <= QuantSpec::kMaxIters, kUsage,
                   fmt::format("steps is {}; choose 1 to {}, or 0 for the default", job.steps, QuantSpec::kMaxIters));
  if (job.steps > 0) spec.iters = job.steps;
  HALFQUAD_REQUIRE(
      job.starts >= 0 && job.starts <= QuantSpec::kMaxStarts, kUsage,
      fmt::format("starts is {}; choose 1 to {}, or 0 for the default", job.starts, QuantSpec::kMaxStarts));
  if (job.starts > 0) spec.starts = job.starts;
  spec.importance = job.importance;
  HALFQUAD_REQUIRE(!job.importance_power || (*job.importance_power >= 0 && *job.importance_power <= 2), kUsage,
                   fmt::format("importance_power is {}; choose 0 to 2", *job.importance_power));
  spec.importance_power = job.importance_power;
  if (job.round_zero) spec.round_zero = *job.round_zero ? "on" : "off";
  spec.per_tensor = job.per_tensor;
  spec.symmetric = job.symmetric;
  spec.group_fallback = job.group_fallback;
  if (job.scale_type) spec.scale_dtype = name_of(dtype_of(*job.scale_type));
  spec.type = job.block_type;
  spec.mixture = job.mixture;
  spec.format = job.format;
  if (job.target_bytes > 0) spec.target_size = std::to_string(job.target_bytes);
  HALFQUAD_REQUIRE(job.target_bits_per_weight >= 0 && job.target_bits_per_weight <= 32, kUsage,
                   fmt::format("target_bits_per_weight is {}; choose 0 to 32", job.target_bits_per_weight));
  if (job.target_bits_per_weight > 0) spec.target_bpw = job.target_bits_per_weight;
  HALFQUAD_REQUIRE(job.embeddings.empty() || job.embeddings == "8" || job.embeddings == "6" || job.embeddings == "keep",
                   kUsage, fmt::format("embeddings is {}; choose 8, 6 or keep", quoted(job.embeddings)));
  spec.embeddings = job.embeddings;
  spec.nonfinite = option_of(job.nonfinite);
  if (job.max_shard_bytes > 0) spec.max_shard_size = std::to_string(job.max_shard_bytes);
  spec.rules = job.rules;
  spec.skip = job.skip;
  spec.recipe = job.recipe.string();
  return spec;
}

QuantizeOptions quantize_options(const CheckpointJob& job) {
  HALFQUAD_REQUIRE(!job.model.empty() && !job.out.empty(), kUsage, "a job needs a model and a place for its output");
  HALFQUAD_REQUIRE(job.threads >= 0 && job.threads <= kMostThreads, kUsage,
                   fmt::format("threads is {}; choose 1 to {}, or 0 for all usable cores", job.threads, kMostThreads));
  QuantizeOptions options;
  options.model = job.model.string();
  options.out = job.out.string();
  options.overwrite = job.overwrite;
  options.fresh = job.fresh;
  options.spec = spec_options(job);
  if (job.threads > 0) options.machine.threads = job.threads;
  if (job.memory_bytes > 0) options.machine.memory = std::to_string(job.memory_bytes);
  options.machine.progress = "none";
  options.devices.devices = job.devices;
  check_device_options(options.devices);
  options.single_file = names_single_file(options.out, options.spec);
  options.prepare = [](const Context& at, const QuantizeOptions& chosen, const NonfiniteSearch& search) {
    return prepare_job(at, chosen.model, chosen.spec, chosen.machine, search);
  };
  options.measures = true;
  return options;
}

JobSummary summary_of(const FinishedJob& finished) {
  const Job& job = finished.job;
  const Inventory inventory = take_inventory(job.checkpoint, job.decisions, job.layout);
  const ErrorFigures errors = error_figures(total_error(finished.result), inventory.weights);
  JobSummary summary;
  summary.layers = job.layout.quantized().size();
  summary.kept_tensors = job.decisions.size() - inventory.quantized_tensors();
  summary.weights = inventory.weights;
  summary.bits_per_weight = inventory.bits_per_weight();
  summary.source_bytes = job.plan.source_bytes;
  summary.output_bytes = finished.facts.output_bytes;
  summary.resumed_bytes = finished.facts.resume.source_bytes;
  summary.seconds = finished.facts.seconds;
  summary.mean_abs_error = errors.mean_abs;
  summary.relative_error = errors.relative;
  return summary;
}

JobSummary run(const CheckpointJob& job, StopFlag& stop, ProgressCaller& progress) {
  QuantizeOptions options = quantize_options(job);
  const std::unique_ptr<FileSystem> files = make_posix_file_system();
  std::ostringstream summary, unused;
  const Context context{*files, stop, summary, unused, {}};
  std::mutex warning;
  const auto warn = [&](const std::string& text) {
    const std::lock_guard lock(warning);
    if (job.warn) job.warn(text);
  };
  const std::unique_ptr<Communicator> alone = make_single_communicator();
  options.spec.measured = measure_for_job(context, options, *alone, nullptr);
  JobLeader leader(*alone, host_name(), stop, warn);
  const Leading by{leader, 1, warn, [&progress](const ProgressCounters& counters, const ProgressTotals& totals) {
                     return progress.watch(counters, totals);
                   }};
  try {
    return summary_of(lead_job(context, options, {"libhalfquad", "quantize", options.model, options.out}, by));
  } catch (const Error& error) {
    static_cast<void>(leader.fail(error));  // there is no other rank that could be left
    throw;
  }
}

}  // namespace

JobSummary quantize_checkpoint(const CheckpointJob& job) {
  StopFlag stop;
  const std::stop_callback cancel(job.stop, [&stop] { stop.request(); });
  ProgressCaller progress(job, stop);
  try {
    JobSummary summary = run(job, stop, progress);
    progress.rethrow();  // of the last call
    return summary;
  } catch (const Error&) {
    progress.rethrow();
    throw;
  } catch (...) {
    progress.rethrow();
    throw as_error(std::current_exception());
  }
}

}  // namespace halfquad
