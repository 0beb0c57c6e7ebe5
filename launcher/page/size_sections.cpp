#include <algorithm>
#include <cstddef>
#include <utility>

#include <fmt/format.h>

#include "launcher/human_count.h"
#include "launcher/page/sections.h"
#include "runtime/text.h"

namespace halfquad::page {
namespace {

std::string bytes_text(double bytes) { return human_bytes(static_cast<std::uint64_t>(std::max(bytes, 0.0))); }

std::string settings_table(const ReportView& view) {
  HtmlTable table("Layers by how they were quantized", {{"settings"},
                                                        {"layers", true},
                                                        {"weights", true},
                                                        {"bits per weight", true},
                                                        {"relative error", true},
                                                        {"worst layer", true}});
  for (const SettingsGroup& group : view.settings) {
    table.add_row({escaped(group.text), fmt::format("{}", group.all.modules()),
                   human_count(static_cast<std::uint64_t>(group.all.weights())), bits_text(group.all.bits_per_weight()),
                   error_text(group.all.relative_error()), error_text(group.all.worst_error())});
  }
  return table.html();
}

std::string kept_table(const ReportView& view) {
  HtmlTable table("Tensors that were kept as they are, by reason",
                  {{"reason"}, {"tensors", true}, {"size", true}, {"of the output", true}, {"such as"}});
  for (const KeptSummary& kept : view.kept) {
    table.add_row({escaped(kept.reason), fmt::format("{}", kept.tensors), human_bytes(kept.bytes),
                   percent_text(static_cast<double>(kept.bytes), static_cast<double>(view.file->totals.output_bytes)),
                   code(kept.example)});
  }
  return table.html();
}

std::string size_figure(const ReportFile::Totals& totals) {
  const auto kept = static_cast<double>(totals.kept_bytes);
  const double before = std::max(0.0, static_cast<double>(totals.source_bytes) - kept);
  const auto after = static_cast<double>(totals.quantized_bytes);
  const double rest = std::max(0.0, static_cast<double>(totals.output_bytes) - after - kept);
  HtmlTable table("Bytes before and after", {{"part"}, {"before", true}, {"after", true}});
  const auto exact = [](double bytes) { return fmt::format("{:.0f}", bytes); };
  table.add_row({"layers that were quantized", exact(before), exact(after)});
  table.add_row({"kept as they are", exact(kept), exact(kept)});
  table.add_row({"headers and padding", "", exact(rest)});
  table.add_row({"all", fmt::format("{}", totals.source_bytes), fmt::format("{}", totals.output_bytes)});
  return figure(
      {.title = "Size before and after",
       .text = fmt::format(
           "{} became {}, {} of the source.", human_bytes(totals.source_bytes), human_bytes(totals.output_bytes),
           percent_text(static_cast<double>(totals.output_bytes), static_cast<double>(totals.source_bytes))),
       .svg = stacked_bars({.label = "Bars: bytes of the source and of the output",
                            .rows = {size_row("before", before, kept, 0), size_row("after", after, kept, rest)}}),
       .legend = size_legend(),
       .table = table.html()});
}

/// What bits per weight are where a report does not tell the sizes of layers.
std::string older_note(const ReportView& view) {
  const auto has_size = [](const ReportedLayer& layer) { return layer.stored_bytes.has_value(); };
  if (std::ranges::all_of(view.file->layers, has_size)) return "";
  return "<p class=\"note\">The report is of a version that did not tell the sizes of single layers: bits per weight "
         "of "
         "groups of layers are those of the codes alone, without scales and zeros.</p>\n";
}

}  // namespace

StackedBars::Row size_row(std::string label, double quantized, double kept, double rest) {
  return {.label = std::move(label),
          .parts = {{"quantized", quantized, "layers that were quantized: " + bytes_text(quantized)},
                    {"kept", kept, "kept as they are: " + bytes_text(kept)},
                    {"rest", rest, "headers and padding: " + bytes_text(rest)}},
          .total = bytes_text(quantized + kept + rest)};
}

std::string size_legend() {
  return legend({legend_entry("quantized", "layers that were quantized (codes, scales, zeros)"),
                 legend_entry("kept", "kept as they are"), legend_entry("rest", "headers and padding")});
}

std::string facts_list(const std::vector<std::pair<std::string, std::string>>& facts) {
  std::string text = "<dl class=\"facts\">";
  for (const auto& [name, value] : facts) text += fmt::format("<dt>{}</dt><dd>{}</dd>", escaped(name), value);
  return text + "</dl>\n";
}

Section size_section(const OutputReport& output) {
  std::string content = size_figure(output.file().totals) + settings_table(output.view) + older_note(output.view);
  if (!output.view.kept.empty()) content += kept_table(output.view);
  return {"size", "Size", std::move(content)};
}

Section bits_section(const OutputReport& output) {
  const ReportView& view = output.view;
  std::string content = "<p>Codes, scales and zeros of the quantized layers of each block, over their weights.</p>\n";
  content += older_note(view);
  for (const Stack& stack : view.stacks) {
    ColumnChart chart{.label = fmt::format("Columns: bits per weight of each block of {}", stack_title(stack)),
                      .names = {},
                      .values = {},
                      .tips = {},
                      .x_title = "block",
                      .y_title = "bits per weight"};
    HtmlTable table("Bits per weight by block of " + stack_title(stack),
                    {{"block"}, {"layers", true}, {"weights", true}, {"bits per weight", true}});
    for (const std::int64_t layer : stack.layers) {
      const ModuleGroup& group = stack.of_layer.at(layer);
      const std::string name = fmt::format("{}", layer);
      chart.names.push_back(name);
      chart.values.push_back(group.bits_per_weight());
      chart.tips.push_back(fmt::format("block {}: {} bits per weight", layer, bits_text(group.bits_per_weight())));
      table.add_row({name, fmt::format("{}", group.modules()), human_count(static_cast<std::uint64_t>(group.weights())),
                     bits_text(group.bits_per_weight())});
    }
    content += figure({.title = "Bits per weight: " + stack_title(stack),
                       .text = fmt::format("{} bits per weight in all.", bits_text(stack.all.bits_per_weight())),
                       .svg = column_chart(chart),
                       .legend = "",
                       .table = table.html()});
  }
  if (view.stacks.empty()) content = "<p>No quantized layer is in a numbered block.</p>\n";
  return {"bits", "Bits", std::move(content)};
}

}  // namespace halfquad::page
