#include <algorithm>
#include <cstddef>
#include <utility>

#include <fmt/format.h>

#include "launcher/human_count.h"
#include "launcher/page/scale.h"
#include "launcher/page/sections.h"
#include "runtime/text.h"

namespace halfquad::page {
namespace {

constexpr int kErrorClasses = 7;
constexpr std::size_t kWorstShown = 20;
constexpr std::int64_t kHistogramBins = 80;

/// "0.083" in a cell.
std::string short_error(const std::optional<double>& error) {
  if (!error) return "n/d";
  return *error >= 0.0995  ? fmt::format("{:.2f}", *error)
         : *error >= 0.001 ? fmt::format("{:.3f}", *error)
                           : fmt::format("{:.0e}", *error);
}

std::string cell_tip(const Stack& stack, std::int64_t layer, std::size_t projection, const ModuleGroup& group) {
  std::string tip = fmt::format("block {}, {}: relative error {}", layer,
                                projection_title(stack.projections[projection]), error_text(group.relative_error()));
  if (group.modules() > 1 && group.worst_error()) {
    tip += fmt::format(" ({} modules, {} to {})", group.modules(), error_text(group.least_error()),
                       error_text(group.worst_error()));
  }
  return tip;
}

std::string class_legend(const std::vector<double>& boundaries, bool with_undefined) {
  std::vector<std::string> entries;
  const double step = boundaries.size() > 1 ? boundaries[1] - boundaries[0] : boundaries.empty() ? 1 : boundaries[0];
  for (std::size_t i = 0; i <= boundaries.size() && !boundaries.empty(); ++i) {
    const std::string from = i == 0 ? "" : tick_text(boundaries[i - 1], step);
    const std::string to = i == boundaries.size() ? "" : tick_text(boundaries[i], step);
    entries.push_back(legend_entry(fmt::format("h{}", i), from.empty() ? "below " + to
                                                          : to.empty() ? from + " and more"
                                                                       : from + " to " + to));
  }
  if (with_undefined) entries.push_back(legend_entry("undefined", "not defined"));
  return entries.empty() ? "" : legend(entries);
}

std::string grid_table(const Stack& stack, const std::string& caption) {
  std::vector<HtmlTable::Column> columns = {{"block"}};
  for (const std::string& projection : stack.projections) columns.push_back({code(projection_title(projection)), true});
  HtmlTable table(caption, columns);
  for (const std::int64_t layer : stack.layers) {
    std::vector<std::string> cells = {fmt::format("{}", layer)};
    for (std::size_t i = 0; i < stack.projections.size(); ++i) {
      const ModuleGroup* cell = stack.cell(layer, i);
      cells.push_back(cell == nullptr ? "" : error_text(cell->relative_error()));
    }
    table.add_row(cells);
  }
  return table.html();
}

std::string projection_table(const ReportView& view, const Stack& stack) {
  HtmlTable table("Relative error by projection of " + stack_title(stack), {{"projection"},
                                                                            {"modules", true},
                                                                            {"weights", true},
                                                                            {"bits per weight", true},
                                                                            {"relative error", true},
                                                                            {"least", true},
                                                                            {"worst", true},
                                                                            {"in block", true}});
  for (std::size_t i = 0; i < stack.projections.size(); ++i) {
    const ModuleGroup& group = stack.of_projection[i];
    const auto worst = group.worst();
    table.add_row({code(projection_title(stack.projections[i])), fmt::format("{}", group.modules()),
                   human_count(static_cast<std::uint64_t>(group.weights())), bits_text(group.bits_per_weight()),
                   error_text(group.relative_error()), error_text(group.least_error()), error_text(group.worst_error()),
                   worst ? fmt::format("{}", place_of(view.file->layers[*worst].module).layer.value_or(0)) : ""});
  }
  return table.html();
}

std::vector<HtmlTable::Column> module_columns() {
  return {{"layer"},          {"shape", true}, {"settings"},         {"relative error", true},
          {"weighted", true}, {"SQNR", true},  {"mean error", true}, {"largest error", true}};
}

std::vector<std::string> module_cells(const ReportedLayer& layer) {
  return {code(layer.module),
          fmt::format("{} × {}", layer.rows, layer.cols),
          escaped(settings_text(layer)),
          error_text(layer.relative_error),
          layer.weighted_relative_error ? error_text(layer.weighted_relative_error) : "-",
          decibel_text(layer.sqnr_db),
          fmt::format("{:.3g}", layer.mean_abs_error),
          fmt::format("{:.3g}", layer.max_abs_error)};
}

std::string bins_table(const std::string& caption, const ValueHistogram::View& bins,
                       const std::optional<ValueHistogram::View>& second, const std::string& first_name) {
  std::vector<HtmlTable::Column> columns = {{"from", true}, {"to", true}, {escaped(first_name), true}};
  if (second) columns.push_back({"quantized", true});
  HtmlTable table(caption, columns);
  const auto row = [&](const std::string& from, const std::string& to, std::uint64_t count, std::uint64_t other) {
    std::vector<std::string> cells = {from, to, fmt::format("{}", count)};
    if (second) cells.push_back(fmt::format("{}", other));
    table.add_row(cells);
  };
  const auto edge = [&](std::size_t i) {
    return fmt::format("{:.5g}", bins.low + static_cast<double>(i) * bins.width);
  };
  row("", edge(0), bins.below, second ? second->below : 0);
  for (std::size_t i = 0; i < bins.counts.size(); ++i) {
    row(edge(i), edge(i + 1), bins.counts[i], second ? second->counts[i] : 0);
  }
  row(edge(bins.counts.size()), "", bins.above, second ? second->above : 0);
  return table.html();
}

std::string beyond_text(const ValueHistogram::View& bins) {
  const std::uint64_t beyond = bins.below + bins.above;
  return beyond == 0 ? "" : fmt::format(" {} lie further out than shown.", beyond);
}

std::string weight_figure(const LayerHistogram& layer) {
  const ValueHistogram& shown = layer.original ? *layer.original : layer.quantized;
  int exponent = std::max(shown.view_exponent(kHistogramBins), layer.quantized.exponent());
  if (layer.original) exponent = std::max(exponent, layer.quantized.view_exponent(kHistogramBins));
  const ValueHistogram::View bins = shown.view(exponent, kHistogramBins);
  std::optional<ValueHistogram::View> outline;
  if (layer.original) outline = layer.quantized.view(exponent, kHistogramBins);
  const std::string first_name = layer.original ? "source" : "quantized";
  return figure(
      {.title = "Weights of " + layer.module,
       .text = fmt::format("{} weights.{}", human_count(shown.total()), beyond_text(bins)),
       .svg = histogram_chart(
           {.label = "Histogram: weights of " + layer.module, .bins = bins, .outline = outline, .x_title = "weight"}),
       .legend = layer.original ? legend({legend_entry("area", "source"), legend_entry("outline", "quantized")})
                                : legend({legend_entry("area", "quantized")}),
       .table = bins_table("Weights of " + layer.module + " by size", bins, outline, first_name)});
}

std::string difference_figure(const LayerHistogram& layer) {
  const ValueHistogram::View bins =
      layer.difference->view(layer.difference->view_exponent(kHistogramBins), kHistogramBins);
  return figure(
      {.title = "Errors of " + layer.module,
       .text = "Quantized weight less the source's." + beyond_text(bins),
       .svg = histogram_chart(
           {.label = "Histogram: errors of " + layer.module, .bins = bins, .outline = {}, .x_title = "error"}),
       .legend = legend({legend_entry("area", "quantized - source")}),
       .table = bins_table("Errors of " + layer.module + " by size", bins, {}, "weights")});
}

}  // namespace

std::string stack_title(const Stack& stack) { return stack.name.empty() ? "the numbered blocks" : stack.name; }

std::string projection_title(const std::string& projection) {
  return projection.empty() ? "(the whole block)" : projection;
}

std::vector<double> error_classes(const Stack& stack) {
  double low = 0, high = 0;
  bool first = true;
  for (const auto& [place, group] : stack.cells) {
    const auto error = group.relative_error();
    if (!error) continue;
    low = first ? *error : std::min(low, *error);
    high = first ? *error : std::max(high, *error);
    first = false;
  }
  return class_boundaries(low, high, kErrorClasses);
}

HeatMap heat_map_of(const Stack& stack, std::string label) {
  const std::vector<double> boundaries = error_classes(stack);
  HeatMap map{.label = std::move(label), .rows = {}, .columns = {}, .column_title = "block", .cells = {}};
  for (const std::string& projection : stack.projections) map.rows.push_back(projection_title(projection));
  for (const std::int64_t layer : stack.layers) map.columns.push_back(fmt::format("{}", layer));
  for (std::size_t i = 0; i < stack.projections.size(); ++i) {
    for (const std::int64_t layer : stack.layers) {
      const ModuleGroup* group = stack.cell(layer, i);
      if (group == nullptr) {
        map.cells.emplace_back();
        continue;
      }
      const auto error = group->relative_error();
      const std::string css_class = error ? fmt::format("h{}", class_of(*error, boundaries)) : "undefined";
      map.cells.push_back(HeatMap::Cell{css_class, short_error(error), cell_tip(stack, layer, i, *group)});
    }
  }
  return map;
}

Section error_section(const OutputReport& output) {
  const ReportView& view = output.view;
  std::string content =
      "<p>Relative error of the weights, ‖W − Ŵ‖ / ‖W‖. Several modules in one place, such as the experts of a block, "
      "are taken together: the root of the mean of the squared errors, each counting by its weights.</p>\n";
  for (const Stack& stack : view.stacks) {
    const bool undefined =
        std::ranges::any_of(stack.cells, [](const auto& cell) { return !cell.second.relative_error(); });
    const std::string title = "Error by block and projection: " + stack_title(stack);
    content += figure({.title = title,
                       .text = "Darker cells in the light theme, brighter ones in the dark, have larger errors.",
                       .svg = heat_map(heat_map_of(
                           stack, "Heat map: relative error by block and projection of " + stack_title(stack))),
                       .legend = class_legend(error_classes(stack), undefined),
                       .table = grid_table(stack, "Relative error by block and projection of " + stack_title(stack))});
    content += projection_table(view, stack);
  }
  if (!view.outside.empty()) {
    HtmlTable table("Quantized layers outside of numbered blocks", module_columns());
    for (const std::size_t i : view.outside) table.add_row(module_cells(view.file->layers[i]));
    content += table.html();
  }
  return {"errors", "Errors", std::move(content)};
}

Section worst_section(const OutputReport& output) {
  const ReportView& view = output.view;
  const std::size_t shown = std::min(kWorstShown, view.by_error.size());
  HtmlTable table(fmt::format("The {} layers with the largest relative errors, of {}", shown, view.by_error.size()),
                  module_columns());
  for (std::size_t i = 0; i < shown; ++i) table.add_row(module_cells(view.file->layers[view.by_error[i]]));
  std::string content = table.html();
  if (!output.histograms.empty()) content += "<div class=\"pair\">\n";
  for (const LayerHistogram& layer : output.histograms) {
    content += weight_figure(layer);
    if (layer.difference) content += difference_figure(layer);
  }
  if (!output.histograms.empty()) content += "</div>\n";
  if (!output.histogram_note.empty())
    content += fmt::format("<p class=\"note\">{}</p>\n", escaped(output.histogram_note));
  return {"worst", "Worst layers", std::move(content)};
}

}  // namespace halfquad::page
