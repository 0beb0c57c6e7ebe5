#include "launcher/job.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "io/memory_read_file.h"
#include "launcher/inventory.h"
#include "launcher/version.h"
#include "runtime/check.h"
#include "runtime/progress.h"
#include "runtime/text.h"
#include "sharding/scan.h"
#include "sharding/source_model.h"

namespace halfquad {
namespace {

constexpr std::size_t kWarningsShown = 10;

constexpr std::uint64_t kLongestText = 256 << 20;

}  // namespace

SourceTexts read_texts(FileSystem& fs, const Checkpoint& checkpoint, const Format& format) {
  SourceTexts texts;
  for (const std::string& name : format.wanted_texts(checkpoint)) {
    const std::filesystem::path path = checkpoint.directory() / name;
    if (fs.kind(path) == FileKind::kFile) texts[name] = read_text(fs, path, kLongestText);
  }
  return texts;
}

namespace {

std::vector<Decision> settled(const Checkpoint& checkpoint, const Recipe& recipe, const SpecLimits& limits,
                              const Format& format) {
  std::vector<Decision> decisions = decide(checkpoint, recipe, limits);
  format.settle(checkpoint, decisions);
  return decisions;
}

/// Of the tensors that `decisions` quantize, those that hold NaN or infinity, in order.
std::vector<std::size_t> find_nonfinite(const Context& context, const Checkpoint& checkpoint, const SpecOptions& spec,
                                        const MachineOptions& machine, const NonfiniteSearch& search,
                                        std::span<const Decision> decisions) {
  std::vector<std::size_t> candidates;
  ProgressTotals totals;
  for (const Decision& decision : decisions) {
    if (!decision.quantize()) continue;
    candidates.push_back(decision.source);
    totals.source_bytes += checkpoint.tensors()[decision.source].bytes;
  }
  totals.tensors = candidates.size();

  ProgressCounters progress;
  constexpr char kPhase[] = "looking for NaN and infinity";
  ProgressMeter meter(progress, totals, machine.progress_options(), kPhase);
  std::optional<JobMonitor::Stage> stage;
  if (search.monitor != nullptr) stage.emplace(*search.monitor, kPhase, progress, totals);
  const NonfiniteScan scan(checkpoint, candidates);
  const OutputLayout all(checkpoint, decisions, spec.stored(), spec.max_shard_bytes(), spec.output_format(),
                         read_texts(context.fs, checkpoint, spec.output_format()));
  const RankScan job{.fs = context.fs,
                     .scan = scan,
                     .threads = machine.thread_count(search.processes),
                     .read_mode = machine.read_mode(),
                     .fingerprint = fingerprint_of(checkpoint, all, spec.nonfinite, HALFQUAD_VERSION)};
  std::vector<std::size_t> found = search.find
                                       ? search.find(job, progress)
                                       : scan.find(job.fs, {}, job.threads, job.read_mode, progress, context.stop);
  meter.finish();
  HALFQUAD_REQUIRE(found.size() < candidates.size(), kBadInput,
                   "every tensor that would be quantized holds a NaN or an infinity: the checkpoint looks broken");
  return found;
}

/// Of what would be quantized, the tensors that stay for a NaN or infinity in them, or in what engines merge with them.
/// With a target, whose choice may change by what stays, all that any choice might quantize is looked at.
std::vector<Decision> nonfinite_decisions(const Context& context, const Checkpoint& checkpoint, const SpecOptions& spec,
                                          const MachineOptions& machine, const NonfiniteSearch& search,
                                          const Recipe& recipe) {
  SpecLimits limits = spec.limits();
  limits.group_fallback = limits.group_fallback || spec.has_target();
  std::vector<Decision> decisions = settled(checkpoint, recipe, limits, spec.output_format());
  for (const std::size_t source : find_nonfinite(context, checkpoint, spec, machine, search, decisions)) {
    decisions[source].keep = KeepReason::kNonfinite;
    decisions[source].why = "holds NaN or infinity";
  }
  spec.output_format().settle(checkpoint, decisions);
  std::erase_if(decisions, [](const Decision& decision) { return decision.keep != KeepReason::kNonfinite; });
  return decisions;
}

Recipe without(Recipe recipe, const Checkpoint& checkpoint, std::span<const Decision> kept) {
  for (const Decision& decision : kept)
    recipe.skip.push_back(fmt::format("^\\Q{}\\E$", checkpoint.tensors()[decision.source].name));
  return recipe;
}

/// Gives layers their entries in the importance file, or in what was measured. Null without either.
std::shared_ptr<const GivenImportance> take_importance(const Context& context, const Checkpoint& checkpoint,
                                                       const SpecOptions& spec, std::vector<Decision>& decisions) {
  const bool wanted = std::ranges::any_of(decisions, [](const Decision& decision) {
    return decision.quantize() && decision.spec.weighted() && decision.spec.importance == Importance::kFile;
  });
  if (spec.measured && spec.measured->file) {
    if (!wanted || spec.measured->file->empty()) return nullptr;
    auto found = std::make_shared<GivenImportance>(
        ImportanceFile::parse(std::make_unique<MemoryReadFile>(spec.measured->file), spec.measured->about));
    found->assign(checkpoint, decisions);
    return found;
  }
  if (spec.importance_file().empty()) {
    HALFQUAD_REQUIRE(!wanted, kUsage, "a rule or the recipe says importance:file; pass --importance FILE with it");
    return nullptr;
  }
  HALFQUAD_REQUIRE(wanted, kUsage,
                   fmt::format("no layer would be weighted by {}: --importance FILE needs --solver als",
                               quoted(spec.importance_file())));
  auto importance = std::make_shared<GivenImportance>(context.fs, spec.importance_file());
  importance->assign(checkpoint, decisions);
  return importance;
}

}  // namespace

std::string importance_digest(const Job& job) {
  if (job.importance) return job.importance->digest();
  return job.measured ? job.measured->disagreeing : std::string();
}

Job prepare_job(const Context& context, const std::filesystem::path& model, const SpecOptions& spec,
                const MachineOptions& machine, const NonfiniteSearch& search) {
  const DType stored = spec.stored();
  const std::uint64_t max_shard_bytes = spec.max_shard_bytes();
  Recipe recipe = spec.build_recipe(context.fs);
  Checkpoint checkpoint = open_source(context.fs, model);
  HALFQUAD_REQUIRE(checkpoint.gguf() == nullptr || spec.output_format().container() == Container::kGguf, kUsage,
                   fmt::format("{} is a GGUF model, without the config.json and the names that {} outputs are made of; "
                               "give OUT a name that ends in .gguf or pass --format gguf",
                               quoted(model.string()), spec.output_format().name()));
  spec.add_named(recipe, checkpoint);
  SourceTexts texts = read_texts(context.fs, checkpoint, spec.output_format());
  std::optional<ChosenSpec> chosen;
  const auto choose = [&](Recipe asked) {
    if (!spec.has_target()) return asked;
    const ModelOutline outline(checkpoint, asked);
    chosen = choose_spec(context, {checkpoint, asked, spec.output_format(), spec.limits(), stored, texts, outline},
                         spec, machine.thread_count(search.processes));
    return recipe_with(chosen->sized.choice, std::move(asked), spec.output_format(), checkpoint, outline.classes());
  };
  Recipe settings = choose(recipe);
  std::vector<Decision> nonfinite;
  if (spec.nonfinite == "keep-original") {
    nonfinite = nonfinite_decisions(context, checkpoint, spec, machine, search, settings);
    if (chosen && !nonfinite.empty()) settings = choose(without(recipe, checkpoint, nonfinite));
  }
  std::vector<Decision> decisions = settled(checkpoint, settings, spec.limits(), spec.output_format());
  for (const Decision& decision : nonfinite) decisions[decision.source] = decision;
  if (!nonfinite.empty()) spec.output_format().settle(checkpoint, decisions);
  std::shared_ptr<const GivenImportance> importance = take_importance(context, checkpoint, spec, decisions);
  OutputLayout layout(checkpoint, decisions, stored, max_shard_bytes, spec.output_format(), texts);
  Plan plan = make_plan(checkpoint, layout);
  return {.checkpoint = std::move(checkpoint),
          .decisions = std::move(decisions),
          .texts = std::move(texts),
          .layout = std::move(layout),
          .plan = std::move(plan),
          .importance = std::move(importance),
          .chosen = std::move(chosen),
          .measured = spec.measured};
}

namespace {

std::string missing_text(const GivenImportance& importance) {
  const auto missing = importance.missing();
  return fmt::format("{} of {} layers have no entry in {} and are weighted by what their own weights say, such as {}",
                     missing.size(), missing.size() + importance.layers(), quoted(importance.file().name()),
                     quoted(missing.front()));
}

}  // namespace

std::vector<std::string> job_warnings(const Job& job) {
  std::vector<std::string> warnings = shape_warnings(job.checkpoint, job.decisions);
  const std::vector<std::string> of_format =
      job.layout.format().warnings({job.checkpoint, job.decisions, job.layout.stored(), job.texts});
  warnings.insert(warnings.end(), of_format.begin(), of_format.end());
  // Of its own measurements every job lacks those of layers that no token passes; the summary counts them.
  if (job.importance && !job.has_measured() && !job.importance->missing().empty())
    warnings.push_back(missing_text(*job.importance));
  if (job.converted) warnings.insert(warnings.end(), job.converted->notes.begin(), job.converted->notes.end());
  if (warnings.size() > kWarningsShown) {
    const std::size_t more = warnings.size() - kWarningsShown;
    warnings.resize(kWarningsShown);
    warnings.push_back(fmt::format("{} more warnings of this kind", more));
  }
  return warnings;
}

void require_memory(const Plan& plan, std::uint64_t memory_bytes) {
  const std::uint64_t minimum = minimum_memory(plan);
  HALFQUAD_REQUIRE(
      memory_bytes >= minimum, kOutOfMemory,
      fmt::format("this job needs at least {} of buffers, but its budget is {}; pass --memory {}MiB or more",
                  human_bytes(minimum), human_bytes(memory_bytes), (minimum + (1 << 20) - 1) >> 20));
}

}  // namespace halfquad
