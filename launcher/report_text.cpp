#include "launcher/report_text.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include <fmt/format.h>

#include "launcher/human_count.h"
#include "launcher/page/html.h"
#include "launcher/report_comparison.h"
#include "launcher/table.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::size_t kProjectionsShown = 24;
constexpr std::size_t kWorstShown = 5;
constexpr std::size_t kNameColumns = 36;

/// For a terminal: without control characters, and short. Table counts bytes, so names of other scripts lose some
/// alignment.
std::string name_text(std::string_view name, std::size_t most = kNameColumns) {
  constexpr std::string_view kDots = "…";
  std::string text = page::shortened(name, most);
  if (text == page::visible(name)) return text;
  text = page::shortened(name, most - 2);
  return text.replace(text.find(kDots), kDots.size(), "...");
}

std::string weighted_text(const ReportFile::Totals& totals) {
  if (!totals.weighted_relative_error) return "";
  return fmt::format(" (weighted {})", error_text(totals.weighted_relative_error));
}

std::string totals_text(const OutputReport& output) {
  const ReportFile& file = output.file();
  const ReportFile::Totals& totals = file.totals;
  Table table("ll", {});
  table.add_row(
      {"size",
       fmt::format("{} -> {}, {} of the source", human_bytes(totals.source_bytes), human_bytes(totals.output_bytes),
                   percent_text(static_cast<double>(totals.output_bytes), static_cast<double>(totals.source_bytes)))});
  table.add_row({"quantized", fmt::format("{} layers, {} weights, {} bits per weight", file.layers.size(),
                                          human_count(totals.quantized_weights), bits_text(totals.bits_per_weight))});
  table.add_row({"kept", fmt::format("{} tensors, {}", file.kept.size(), human_bytes(totals.kept_bytes))});
  table.add_row({"error", fmt::format("relative {}{}, SQNR {}, largest {:.3g}", error_text(totals.relative_error),
                                      weighted_text(totals), decibel_text(totals.sqnr_db), totals.max_abs_error)});
  table.add_row({"time", fmt::format("{}, {} rank{} of {} threads", seconds_text(totals.seconds), file.ranks.size(),
                                     file.ranks.size() == 1 ? "" : "s", totals.threads)});
  table.add_row({"halfquad", name_text(file.version, 60)});
  return table.text(2);
}

std::string projections_text(const OutputReport& output, const Stack& stack) {
  const std::vector<ReportedLayer>& layers = output.file().layers;
  Table table("lrrrl", {"projections of " + name_text(stack.name, 20), "modules", "error", "worst", "in block"});
  for (std::size_t i = 0; i < std::min(stack.projections.size(), kProjectionsShown); ++i) {
    const ModuleGroup& group = stack.of_projection[i];
    const auto worst = group.worst();
    table.add_row({name_text(stack.projections[i].empty() ? stack.name : stack.projections[i]),
                   fmt::format("{}", group.modules()), error_text(group.relative_error()),
                   error_text(group.worst_error()),
                   worst ? fmt::format("{}", place_of(layers[*worst].module).layer.value_or(0)) : ""});
  }
  return table.text(2);
}

std::string worst_text(const OutputReport& output) {
  Table table("lrrr", {"worst layers", "error", "weighted", "SQNR"});
  for (std::size_t i = 0; i < std::min(kWorstShown, output.view.by_error.size()); ++i) {
    const ReportedLayer& layer = output.file().layers[output.view.by_error[i]];
    table.add_row({name_text(layer.module, 40), error_text(layer.relative_error),
                   layer.weighted_relative_error ? error_text(layer.weighted_relative_error) : "-",
                   decibel_text(layer.sqnr_db)});
  }
  return table.empty() ? "" : table.text(2);
}

std::string single_text(const OutputReport& output) {
  std::string text = name_text(output.name, kReportColumns);
  const std::string what = name_text(what_it_is(output), 60);
  text += what.empty() ? "\n" : fmt::format("\n  {}\n", what);
  text += totals_text(output);
  for (const Stack& stack : output.view.stacks) text += fmt::format("\n{}", projections_text(output, stack));
  const std::string worst = worst_text(output);
  return worst.empty() ? text : fmt::format("{}\n{}", text, worst);
}

std::string comparison_text(std::span<const OutputReport> outputs) {
  Table table("lrrrrr", {"output", "size", "of source", "bits", "error", "SQNR"});
  for (const OutputReport& output : outputs) {
    const ReportFile::Totals& totals = output.file().totals;
    table.add_row({name_text(output.name, 28), human_bytes(totals.output_bytes),
                   percent_text(static_cast<double>(totals.output_bytes), static_cast<double>(totals.source_bytes)),
                   bits_text(totals.bits_per_weight), error_text(totals.relative_error), decibel_text(totals.sqnr_db)});
  }
  std::string text = table.text(0);
  const OutputReport& first = outputs[0];
  for (const OutputReport& second : outputs.subspan(1)) {
    const OutputDifference difference = difference_of(first.file(), second.file());
    text += fmt::format("\n{} against {}\n", name_text(second.name), name_text(first.name, 30));
    text += fmt::format("  layers in both: {}; smaller errors {}, larger {}, the same {}\n", difference.common,
                        difference.better, difference.worse, difference.equal);
    if (difference.only_first + difference.only_second > 0) {
      text += fmt::format("  layers in one only: {} of the first, {} of the second\n", difference.only_first,
                          difference.only_second);
    }
    text += fmt::format("  tensors: {} with the same bytes, {} with others, {} in one only\n", difference.same_tensors,
                        difference.other_tensors, difference.tensors_of_one);
    Table changes("lrrr", {"largest differences", "first", "second", "change"});
    for (std::size_t i = 0; i < std::min(kWorstShown, difference.changes.size()); ++i) {
      const ModuleChange& change = difference.changes[i];
      changes.add_row({name_text(change.module, 44), error_text(change.first_error), error_text(change.second_error),
                       change_text(relative_change(change.first_error, change.second_error))});
    }
    if (!changes.empty()) text += changes.text(2);
  }
  return text;
}

}  // namespace

std::string report_text(std::span<const OutputReport> outputs) {
  return outputs.size() == 1 ? single_text(outputs[0]) : comparison_text(outputs);
}

}  // namespace halfquad
