#include "launcher/summary.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include <fmt/format.h>

#include "launcher/conversion_summary.h"
#include "launcher/table.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::size_t kWorstShown = 3;

double percent(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

std::string ratio_text(const std::optional<double>& value) { return value ? fmt::format("{:.5f}", *value) : "-"; }

std::string decibel_text(const std::optional<double>& value) { return value ? fmt::format("{:.1f} dB", *value) : "-"; }

std::string worst_layers(const Job& job, const RunResult& result) {
  std::vector<std::size_t> order(result.tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::vector<ErrorFigures> figures;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const QuantizedTensor& layer = job.layout.quantized()[i];
    figures.push_back(error_figures(result.tensors[i].error, static_cast<std::uint64_t>(layer.rows * layer.cols)));
  }
  const std::size_t shown = std::min(kWorstShown, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(shown), order.end(),
                    [&](std::size_t a, std::size_t b) {
                      return figures[a].relative.value_or(HUGE_VAL) > figures[b].relative.value_or(HUGE_VAL);
                    });
  Table table("llrr", {});
  for (std::size_t i = 0; i < shown; ++i) {
    const ErrorFigures& worst = figures[order[i]];
    table.add_row({i == 0 ? "worst layers" : "", quoted(job.layout.quantized()[order[i]].module),
                   ratio_text(worst.relative), decibel_text(worst.sqnr_db)});
  }
  return table.text(2);
}

std::string ranks_text(const RunFacts& facts) {
  std::set<std::string> hosts;
  double most = 0, sum = 0;
  for (const RankFacts& rank : facts.ranks) {
    hosts.insert(rank.host);
    const double busy = rank.stats.solve_seconds;
    most = std::max(most, busy);
    sum += busy;
  }
  const double mean = sum / static_cast<double>(facts.ranks.size());
  return fmt::format("{} on {} host{}; the busiest solved {:.2f} times as long as the mean", facts.ranks.size(),
                     hosts.size(), hosts.size() == 1 ? "" : "s", mean > 0 ? most / mean : 1.0) +
         (facts.assembly.gathered ? fmt::format("; results gathered by {}", facts.assembly.writers) : "");
}

// "2 NVIDIA H100, 1 NVIDIA A100; 93.0 % of the weights"; empty without devices. One that ranks share counts for each.
std::string devices_text(const RunFacts& facts, const RunResult& result, std::uint64_t weights) {
  std::map<std::string, int> count;
  for (const RankFacts& rank : facts.ranks) {
    for (const std::string& device : rank.devices) ++count[device];
  }
  std::string text;
  for (const auto& [name, number] : count) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", number, name);
  if (!text.empty()) text += fmt::format("; {:.1f} % of the weights", percent(result.device_weights, weights));
  return text;
}

std::string importance_text(const Job& job) {
  if (!job.importance) return "guessed from the weights: " + job.measured->why_not;
  const GivenImportance& importance = *job.importance;
  const std::size_t missing = importance.missing().size();
  std::string text = fmt::format("{} of {} layers ", importance.layers(), importance.layers() + missing);
  if (job.has_measured()) {
    text += fmt::format("by {}, {}", job.measured->about,
                        job.measured->was_there ? "as the interrupted run measured them"
                                                : fmt::format("measured in {:.1f} s", job.measured->seconds));
  } else {
    text += fmt::format("from {}, {}", quoted(importance.file().name()), importance.file().kind_name());
  }
  if (missing > 0) text += fmt::format("; {} without an entry by their own weights", missing);
  return text;
}

}  // namespace

std::string inventory_text(const Inventory& inventory) {
  Table quantized("lrrrr", {"quantized", "tensors", "weights", "before", "after"});
  for (const SpecGroup& group : inventory.specs) {
    quantized.add_row({describe(group.spec), fmt::format("{}", group.tensors), human_count(group.weights),
                       human_bytes(group.source_bytes), human_bytes(group.output_bytes)});
  }
  std::string text = quantized.text(2);
  if (inventory.kept.empty()) return text;
  Table kept("lrrl", {"kept as they are", "tensors", "bytes", "such as"});
  for (const KeptGroup& group : inventory.kept) {
    kept.add_row({std::string(describe(group.reason)), fmt::format("{}", group.tensors), human_bytes(group.bytes),
                  quoted(group.example)});
  }
  return text + kept.text(2);
}

std::string summary_text(const Job& job, const RunResult& result, const RunFacts& facts,
                         const std::filesystem::path& out) {
  const Inventory inventory = take_inventory(job.checkpoint, job.decisions, job.layout);
  const ErrorFigures errors = error_figures(total_error(result), inventory.weights);
  const auto stopped = std::count_if(result.tensors.begin(), result.tensors.end(),
                                     [](const TensorResult& tensor) { return tensor.stopped_early; });
  const double seconds = std::max(facts.seconds, 1e-9);

  std::string text = fmt::format("{} is complete\n", quoted(out.string())) + inventory_text(inventory);
  Table facts_table("ll", {});
  facts_table.add_row(
      {"size",
       fmt::format("{} -> {} ({:.1f} % of the source); {:.3f} bits per quantized weight; {:.1f} % of the source "
                   "left unquantized",
                   human_bytes(inventory.source_bytes), human_bytes(facts.output_bytes),
                   percent(facts.output_bytes, inventory.source_bytes), inventory.bits_per_weight(),
                   percent(inventory.kept_bytes, inventory.source_bytes))});
  if (job.chosen) facts_table.add_row({"target", job.chosen->text()});
  if (job.layout.files().size() > 1) {
    const bool has_index = job.layout.format().container() == Container::kSafetensors;
    facts_table.add_row(
        {"files", fmt::format("{}{}", job.layout.files().size(), has_index ? fmt::format(" and {}", kIndexName) : "")});
  }
  facts_table.add_row(
      {"error", fmt::format("relative {}{}, SQNR {}, mean {:.3g}, largest {:.3g}", ratio_text(errors.relative),
                            errors.weighted ? fmt::format(" (weighted {:.5f})", *errors.weighted) : "",
                            decibel_text(errors.sqnr_db), errors.mean_abs, errors.max_abs)});
  if (job.importance || (job.measured && !job.measured->why_not.empty())) {
    facts_table.add_row({"importance", importance_text(job)});
  }
  if (job.converted) facts_table.add_row({"converted", conversion_text(job, result)});
  facts_table.add_row({"early stop", fmt::format("{} of {} layers; {} tiles were read twice for it", stopped,
                                                 result.tensors.size(), result.tiles_reread)});
  facts_table.add_row(
      {"time", fmt::format("{:.2f} s with {} threads ({}): {:.2f} GB/s read, {:.1f} M weights/s", facts.seconds,
                           facts.threads, facts.solver, static_cast<double>(facts.bytes_read) / seconds / 1e9,
                           static_cast<double>(inventory.weights) / seconds / 1e6)});
  if (const std::string devices = devices_text(facts, result, inventory.weights); !devices.empty()) {
    facts_table.add_row({"devices", devices});
  }
  if (facts.ranks.size() > 1) facts_table.add_row({"ranks", ranks_text(facts)});
  if (facts.resume.source_bytes > 0) {
    facts_table.add_row({"continued", fmt::format("{} of the source were finished by an earlier run",
                                                  human_bytes(facts.resume.source_bytes))});
  }
  facts_table.add_row(
      {"memory", fmt::format("{} resident at most; buffers {} of {}", human_bytes(facts.peak_resident_bytes),
                             human_bytes(result.peak_buffer_bytes), human_bytes(facts.memory_bytes))});
  return text + facts_table.text(2) + worst_layers(job, result);
}

}  // namespace halfquad
