#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/output_report.h"
#include "launcher/page/charts.h"
#include "launcher/page/html.h"

namespace halfquad::page {

/// A part of the page that the navigation leads to.
struct Section {
  std::string id, title;
  std::string content;  ///< HTML.
};

// Sections about one output.
[[nodiscard]] Section size_section(const OutputReport& output);
[[nodiscard]] Section error_section(const OutputReport& output);
[[nodiscard]] Section worst_section(const OutputReport& output);
[[nodiscard]] Section bits_section(const OutputReport& output);
[[nodiscard]] Section time_section(const OutputReport& output);
[[nodiscard]] Section facts_section(const OutputReport& output);

// Sections about several.
[[nodiscard]] Section outputs_section(std::span<const OutputReport> outputs);
[[nodiscard]] Section layers_section(std::span<const OutputReport> outputs);
[[nodiscard]] Section change_section(std::span<const OutputReport> outputs);
[[nodiscard]] Section origins_section(std::span<const OutputReport> outputs);

// Sections about the figures themselves.
[[nodiscard]] Section definitions_section();

// What several sections are made of.
[[nodiscard]] HeatMap heat_map_of(const Stack& stack, std::string label);
/// The heading of a stack, where an output has several.
[[nodiscard]] std::string stack_title(const Stack& stack);
/// "mlp.experts.*.up_proj" of a projection; "(all of it)" of a block that is one module.
[[nodiscard]] std::string projection_title(const std::string& projection);
/// Classes of errors in a heat map, between the smallest and the largest: their inner boundaries.
[[nodiscard]] std::vector<double> error_classes(const Stack& stack);
/// Bars of the parts of each file: quantized, kept, the rest.
[[nodiscard]] StackedBars::Row size_row(std::string label, double quantized, double kept, double rest);
[[nodiscard]] std::string size_legend();
/// A command line, each word whole where it fits.
[[nodiscard]] std::string command_html(const std::vector<std::string>& words);
[[nodiscard]] std::string facts_list(const std::vector<std::pair<std::string, std::string>>& facts);

}  // namespace halfquad::page
