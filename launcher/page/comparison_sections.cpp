#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <utility>

#include <fmt/format.h>

#include "launcher/page/scale.h"
#include "launcher/page/sections.h"
#include "launcher/report_comparison.h"
#include "runtime/text.h"

namespace halfquad::page {
namespace {

constexpr std::size_t kChangesShown = 20;
// Changes of an error in percent that a reader tells apart: one side of the middle class.
constexpr std::array kChangeClasses = {-0.5, -0.2, -0.05, 0.05, 0.2, 0.5};

std::string outputs_table(std::span<const OutputReport> outputs) {
  HtmlTable table("The outputs", {{"output"},
                                  {"what"},
                                  {"size", true},
                                  {"of the source", true},
                                  {"bits per weight", true},
                                  {"relative error", true},
                                  {"SQNR", true},
                                  {"largest error", true},
                                  {"time", true}});
  for (const OutputReport& output : outputs) {
    const ReportFile::Totals& totals = output.file().totals;
    table.add_row({escaped(output.name), "<span class=\"text\">" + escaped(what_it_is(output)) + "</span>",
                   human_bytes(totals.output_bytes),
                   percent_text(static_cast<double>(totals.output_bytes), static_cast<double>(totals.source_bytes)),
                   bits_text(totals.bits_per_weight), error_text(totals.relative_error), decibel_text(totals.sqnr_db),
                   fmt::format("{:.3g}", totals.max_abs_error), seconds_text(totals.seconds)});
  }
  return table.html();
}

std::string sizes_figure(std::span<const OutputReport> outputs) {
  StackedBars bars{.label = "Bars: bytes of each output", .rows = {}};
  HtmlTable table(
      "Bytes of each output",
      {{"output"}, {"quantized layers", true}, {"kept", true}, {"headers and padding", true}, {"all", true}});
  for (const OutputReport& output : outputs) {
    const ReportFile::Totals& totals = output.file().totals;
    const auto quantized = static_cast<double>(totals.quantized_bytes);
    const auto kept = static_cast<double>(totals.kept_bytes);
    const double rest = std::max(0.0, static_cast<double>(totals.output_bytes) - quantized - kept);
    bars.rows.push_back(size_row(output.name, quantized, kept, rest));
    table.add_row({escaped(output.name), fmt::format("{}", totals.quantized_bytes),
                   fmt::format("{}", totals.kept_bytes), fmt::format("{:.0f}", rest),
                   fmt::format("{}", totals.output_bytes)});
  }
  return figure({.title = "Sizes",
                 .text = "Bytes of the weight files.",
                 .svg = stacked_bars(bars),
                 .legend = size_legend(),
                 .table = table.html()});
}

std::string trade_figure(std::span<const OutputReport> outputs) {
  ScatterChart chart{.label = "Points: relative error of each output over its bits per weight",
                     .points = {},
                     .x_title = "bits per weight",
                     .y_title = "relative error"};
  HtmlTable table("Bits per weight and relative error",
                  {{"output"}, {"bits per weight", true}, {"relative error", true}});
  for (const OutputReport& output : outputs) {
    const ReportFile::Totals& totals = output.file().totals;
    chart.points.push_back({totals.bits_per_weight, totals.relative_error.value_or(0), output.name});
    table.add_row({escaped(output.name), bits_text(totals.bits_per_weight), error_text(totals.relative_error)});
  }
  return figure({.title = "Error against size",
                 .text = "Of all quantized layers; further left is smaller, further down is nearer to the source.",
                 .svg = scatter_chart(chart),
                 .legend = "",
                 .table = table.html()});
}

std::string series_legend(std::span<const OutputReport> outputs) {
  std::vector<std::string> entries;
  for (std::size_t i = 0; i < outputs.size(); ++i) entries.push_back(series_entry(i, outputs[i].name));
  return legend(entries);
}

/// The stacks of all outputs that stand beside `stack` of the first.
std::vector<const Stack*> stacks_beside(const Stack& stack, std::span<const OutputReport> outputs) {
  std::vector<const Stack*> stacks;
  for (const OutputReport& output : outputs) stacks.push_back(stack_beside(stack, outputs[0].view, output.view));
  return stacks;
}

std::string layer_lines(const Stack& stack, std::span<const OutputReport> outputs) {
  const std::vector<const Stack*> stacks = stacks_beside(stack, outputs);
  LineChart chart{.label = "Lines: relative error of each block in each output",
                  .series = {},
                  .x_title = "block",
                  .y_title = "relative error"};
  std::vector<HtmlTable::Column> columns = {{"block"}};
  for (const OutputReport& output : outputs) columns.push_back({escaped(output.name), true});
  for (const Stack* beside : stacks) {
    LineChart::Points& points = chart.series.emplace_back();
    if (beside == nullptr) continue;
    for (const auto& [layer, group] : beside->of_layer) {
      if (const auto error = group.relative_error()) points.emplace_back(static_cast<double>(layer), *error);
    }
  }
  HtmlTable table("Relative error by block of " + stack_title(stack), columns);
  for (const std::int64_t layer : stack.layers) {
    std::vector<std::string> cells = {fmt::format("{}", layer)};
    for (const Stack* beside : stacks) {
      const bool has = beside != nullptr && beside->of_layer.contains(layer);
      cells.push_back(has ? error_text(beside->of_layer.at(layer).relative_error()) : "");
    }
    table.add_row(cells);
  }
  return figure({.title = "Error by block: " + stack_title(stack),
                 .text = "All quantized layers of a block taken together.",
                 .svg = line_chart(chart),
                 .legend = series_legend(outputs),
                 .table = table.html()});
}

std::string projection_table(const Stack& stack, std::span<const OutputReport> outputs) {
  std::vector<HtmlTable::Column> columns = {{"projection"}};
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    columns.push_back({escaped(outputs[i].name), true});
    if (i > 0) columns.push_back({"change", true});
  }
  HtmlTable table("Relative error by projection of " + stack_title(stack) + ", and its change from the first output",
                  columns);
  const std::vector<const Stack*> stacks = stacks_beside(stack, outputs);
  for (std::size_t p = 0; p < stack.projections.size(); ++p) {
    std::vector<std::string> cells = {code(projection_title(stack.projections[p]))};
    const auto first = stack.of_projection[p].relative_error();
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      std::optional<double> error;
      bool has = false;
      if (stacks[i] != nullptr) {
        const auto found = std::ranges::find(stacks[i]->projections, stack.projections[p]);
        has = found != stacks[i]->projections.end();
        if (has)
          error = stacks[i]
                      ->of_projection[static_cast<std::size_t>(found - stacks[i]->projections.begin())]
                      .relative_error();
      }
      cells.push_back(has ? error_text(error) : "");
      if (i > 0) cells.push_back(has ? change_text(relative_change(first, error)) : "");
    }
    table.add_row(cells);
  }
  return table.html();
}

std::string class_name(int index) {
  const auto percent = [](double part) { return fmt::format("{:+.0f} %", 100 * part); };
  const auto i = static_cast<std::size_t>(index);
  if (i == 0) return "below " + percent(kChangeClasses.front());
  if (i == kChangeClasses.size()) return percent(kChangeClasses.back()) + " and more";
  return percent(kChangeClasses[i - 1]) + " to " + percent(kChangeClasses[i]);
}

/// Index of the projection of that name, if `stack` has one.
std::optional<std::size_t> projection_of(const Stack& stack, const std::string& name) {
  const auto found = std::ranges::find(stack.projections, name);
  if (found == stack.projections.end()) return std::nullopt;
  return static_cast<std::size_t>(found - stack.projections.begin());
}

std::string change_figure(const OutputReport& first, const OutputReport& second, const Stack& stack,
                          const Stack& beside) {
  const std::vector<double> boundaries(kChangeClasses.begin(), kChangeClasses.end());
  const std::string what = second.name + " against " + first.name;
  HeatMap map{.label = "Heat map: change of the relative error, " + what,
              .rows = {},
              .columns = {},
              .column_title = "block",
              .cells = {}};
  std::vector<HtmlTable::Column> columns = {{"block"}};
  for (const std::string& projection : stack.projections) {
    map.rows.push_back(projection_title(projection));
    columns.push_back({code(projection_title(projection)), true});
  }
  for (const std::int64_t layer : stack.layers) map.columns.push_back(fmt::format("{}", layer));
  const auto change_at = [&](std::int64_t layer, std::size_t row) -> std::optional<double> {
    const ModuleGroup* before = stack.cell(layer, row);
    const auto other = projection_of(beside, stack.projections[row]);
    const ModuleGroup* after = other ? beside.cell(layer, *other) : nullptr;
    if (before == nullptr || after == nullptr) return std::nullopt;
    return relative_change(before->relative_error(), after->relative_error());
  };
  HtmlTable table("Change of the relative error, " + what, columns);
  for (std::size_t row = 0; row < stack.projections.size(); ++row) {
    for (const std::int64_t layer : stack.layers) {
      const auto change = change_at(layer, row);
      if (!change) {
        map.cells.emplace_back();
        continue;
      }
      map.cells.push_back(HeatMap::Cell{fmt::format("d{}", class_of(*change, boundaries)),
                                        fmt::format("{:+.0f}", 100 * *change),
                                        fmt::format("block {}, {}: {}", layer, map.rows[row], change_text(change))});
    }
  }
  for (const std::int64_t layer : stack.layers) {
    std::vector<std::string> cells = {fmt::format("{}", layer)};
    for (std::size_t row = 0; row < stack.projections.size(); ++row) {
      const auto change = change_at(layer, row);
      cells.push_back(change ? change_text(change) : "");
    }
    table.add_row(cells);
  }
  std::vector<std::string> entries;
  for (int i = 0; i <= static_cast<int>(kChangeClasses.size()); ++i)
    entries.push_back(legend_entry(fmt::format("d{}", i), class_name(i)));
  return figure({.title = "Change of the error: " + what,
                 .text = "In percent of the first one's; below 0 is nearer to the source.",
                 .svg = heat_map(map),
                 .legend = legend(entries),
                 .table = table.html()});
}

std::string changes_table(const OutputReport& first, const OutputReport& second, const OutputDifference& difference) {
  const std::size_t shown = std::min(kChangesShown, difference.changes.size());
  HtmlTable table(
      fmt::format("The {} layers whose relative errors differ most, of {}", shown, difference.changes.size()),
      {{"layer"}, {escaped(first.name), true}, {escaped(second.name), true}, {"difference", true}, {"change", true}});
  for (std::size_t i = 0; i < shown; ++i) {
    const ModuleChange& change = difference.changes[i];
    table.add_row({code(change.module), error_text(change.first_error), error_text(change.second_error),
                   fmt::format("{:+.5f}", change.difference()),
                   change_text(relative_change(change.first_error, change.second_error))});
  }
  return table.empty() ? "" : table.html();
}

}  // namespace

Section outputs_section(std::span<const OutputReport> outputs) {
  return {"outputs", "Side by side", outputs_table(outputs) + sizes_figure(outputs) + trade_figure(outputs)};
}

Section layers_section(std::span<const OutputReport> outputs) {
  std::string content;
  for (const Stack& stack : outputs[0].view.stacks)
    content += layer_lines(stack, outputs) + projection_table(stack, outputs);
  if (content.empty()) content = "<p>No quantized layer of the first output is in a numbered block.</p>\n";
  return {"layers", "Errors by block and projection", std::move(content)};
}

Section change_section(std::span<const OutputReport> outputs) {
  const OutputReport& first = outputs[0];
  std::string content = fmt::format("<p>Every other output against {}.</p>\n", escaped(first.name));
  for (const OutputReport& second : outputs.subspan(1)) {
    const OutputDifference difference = difference_of(first.file(), second.file());
    content += fmt::format("<h3>{} against {}</h3>\n", escaped(second.name), escaped(first.name));
    content += facts_list(
        {{"layers",
          fmt::format("{} quantized in both; of these {} with a smaller error, {} with a larger, {} with the same",
                      difference.common, difference.better, difference.worse, difference.equal)},
         {"only in one",
          fmt::format("{} only in the first, {} only in the second", difference.only_first, difference.only_second)},
         {"tensors", fmt::format("{} with the same bytes, {} with other bytes, {} in only one of the outputs",
                                 difference.same_tensors, difference.other_tensors, difference.tensors_of_one)}});
    for (const Stack& stack : first.view.stacks) {
      const Stack* beside = stack_beside(stack, first.view, second.view);
      if (beside != nullptr && difference.common > 0) content += change_figure(first, second, stack, *beside);
    }
    content += difference.common == 0
                   ? "<p class=\"note\">No layer has the same name in both, so none can be compared.</p>\n"
                   : changes_table(first, second, difference);
  }
  return {"change", "Differences", std::move(content)};
}

Section origins_section(std::span<const OutputReport> outputs) {
  std::string content;
  for (const OutputReport& output : outputs) {
    const ReportFile& file = output.file();
    content += fmt::format("<h3>{}</h3>\n{}", escaped(output.name), command_html(file.command));
    content += facts_list({{"halfquad", escaped(file.version)},
                           {"source", code(file.source_path)},
                           {"output", code(file.output)},
                           {"fingerprint", code(output.view.fingerprint) + " of all tensors' names and checksums"}});
  }
  return {"facts", "Where they come from", std::move(content)};
}

}  // namespace halfquad::page
