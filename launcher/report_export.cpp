#include "launcher/report_export.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>

#include <boost/json/array.hpp>
#include <fmt/format.h>

#include "launcher/report_comparison.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::size_t kWorstListed = 20;
constexpr std::int64_t kHistogramBins = 80;

std::string csv_text(std::string_view text) {
  std::string field = "\"";
  for (const char c : is_utf8(text) ? std::string(text) : quoted(text)) {
    if (c == '"') field += '"';
    field += c;
  }
  return field + '"';
}

std::string csv_number(const std::optional<double>& number) { return number ? fmt::format("{}", *number) : ""; }

json::value nullable(const std::optional<double>& value) { return value ? json::value(*value) : json::value(nullptr); }

/// Paths may be no UTF-8.
std::string text_value(const std::string& text) { return is_utf8(text) ? text : quoted(text); }

json::object group_json(const OutputReport& output, const ModuleGroup& group) {
  json::object object = {{"modules", group.modules()},
                         {"weights", group.weights()},
                         {"bits_per_weight", group.bits_per_weight()},
                         {"relative_error", nullable(group.relative_error())},
                         {"least_error", nullable(group.least_error())},
                         {"worst_error", nullable(group.worst_error())}};
  if (group.worst()) object["worst_module"] = output.file().layers[*group.worst()].module;
  return object;
}

json::object stack_json(const OutputReport& output, const Stack& stack) {
  json::array projections;
  for (std::size_t i = 0; i < stack.projections.size(); ++i) {
    json::object projection = group_json(output, stack.of_projection[i]);
    projection["projection"] = stack.projections[i];
    projections.push_back(std::move(projection));
  }
  json::array blocks, cells;
  for (const auto& [layer, group] : stack.of_layer) {
    json::object block = group_json(output, group);
    block["block"] = layer;
    blocks.push_back(std::move(block));
  }
  for (const auto& [place, group] : stack.cells) {
    json::object cell = group_json(output, group);
    cell["block"] = place.first;
    cell["projection"] = stack.projections[place.second];
    cells.push_back(std::move(cell));
  }
  return {{"stack", stack.name},
          {"projections", std::move(projections)},
          {"blocks", std::move(blocks)},
          {"cells", std::move(cells)}};
}

json::object totals_json(const ReportFile::Totals& totals) {
  return {{"source_bytes", totals.source_bytes},
          {"output_bytes", totals.output_bytes},
          {"quantized_bytes", totals.quantized_bytes},
          {"kept_bytes", totals.kept_bytes},
          {"quantized_weights", totals.quantized_weights},
          {"bits_per_weight", totals.bits_per_weight},
          {"relative_error", nullable(totals.relative_error)},
          {"weighted_relative_error", nullable(totals.weighted_relative_error)},
          {"sqnr_db", nullable(totals.sqnr_db)},
          {"mean_abs_error", totals.mean_abs_error},
          {"max_abs_error", totals.max_abs_error},
          {"seconds", totals.seconds}};
}

json::object view_json(const ValueHistogram& histogram) {
  const ValueHistogram::View view = histogram.view(histogram.view_exponent(kHistogramBins), kHistogramBins);
  return {{"low", view.low},
          {"width", view.width},
          {"counts", json::array(view.counts.begin(), view.counts.end())},
          {"below", view.below},
          {"above", view.above}};
}

json::array histograms_json(const OutputReport& output) {
  json::array array;
  for (const LayerHistogram& layer : output.histograms) {
    json::object object = {{"module", layer.module}, {"quantized", view_json(layer.quantized)}};
    if (layer.original) object["source"] = view_json(*layer.original);
    if (layer.difference) object["error"] = view_json(*layer.difference);
    array.push_back(std::move(object));
  }
  return array;
}

json::object time_line_json(const TimeLine& line) {
  json::array rows;
  for (const TimeRow& row : line.rows) {
    json::object object = {{"threads", row.name}, {"count", row.lanes}};
    for (std::size_t i = 0; i < kActivities; ++i) {
      object[fmt::format("{}_seconds", name_of(static_cast<Activity>(i)))] = row.seconds[i];
    }
    object["wait_seconds"] = row.wait_seconds(line.seconds);
    rows.push_back(std::move(object));
  }
  return {{"seconds", line.seconds}, {"ranks", line.ranks}, {"threads", line.lanes}, {"rows", std::move(rows)}};
}

json::array ranks_json(const ReportFile& file) {
  json::array ranks;
  for (const ReportedRank& rank : file.ranks) {
    ranks.push_back({{"host", rank.host},
                     {"bytes_read", rank.bytes_read},
                     {"bytes_written", rank.bytes_written},
                     {"weights", rank.weights},
                     {"read_wait_seconds", rank.read_wait_seconds},
                     {"solve_seconds", rank.solve_seconds},
                     {"write_seconds", rank.write_seconds}});
  }
  return ranks;
}

json::object output_json(const OutputReport& output) {
  const ReportFile& file = output.file();
  json::array settings, kept, worst, stacks;
  for (const SettingsGroup& group : output.view.settings) {
    json::object object = group_json(output, group.all);
    object["settings"] = group.text;
    settings.push_back(std::move(object));
  }
  for (const KeptSummary& group : output.view.kept) {
    kept.push_back(
        {{"reason", group.reason}, {"tensors", group.tensors}, {"bytes", group.bytes}, {"example", group.example}});
  }
  for (std::size_t i = 0; i < std::min(kWorstListed, output.view.by_error.size()); ++i) {
    const ReportedLayer& layer = file.layers[output.view.by_error[i]];
    worst.push_back({{"module", layer.module},
                     {"relative_error", nullable(layer.relative_error)},
                     {"weighted_relative_error", nullable(layer.weighted_relative_error)},
                     {"sqnr_db", nullable(layer.sqnr_db)}});
  }
  for (const Stack& stack : output.view.stacks) stacks.push_back(stack_json(output, stack));
  json::object object = {{"name", text_value(output.name)},
                         {"output", text_value(file.output)},
                         {"source", text_value(file.source_path)},
                         {"halfquad", file.version},
                         {"format", file.format.empty() ? json::value(nullptr) : json::value(file.format)},
                         {"command", json::array(file.command.begin(), file.command.end())},
                         {"fingerprint", output.view.fingerprint},
                         {"totals", totals_json(file.totals)},
                         {"settings", std::move(settings)},
                         {"kept", std::move(kept)},
                         {"stacks", std::move(stacks)},
                         {"worst", std::move(worst)},
                         {"ranks", ranks_json(file)},
                         {"histograms", histograms_json(output)}};
  if (output.time_line) object["time_line"] = time_line_json(*output.time_line);
  return object;
}

json::object difference_json(const OutputReport& first, const OutputReport& second) {
  const OutputDifference difference = difference_of(first.file(), second.file());
  json::array changes;
  for (const ModuleChange& change : difference.changes) {
    changes.push_back(
        {{"module", change.module}, {"first_error", change.first_error}, {"second_error", change.second_error}});
  }
  return {{"first", text_value(first.name)},
          {"second", text_value(second.name)},
          {"layers_in_both", difference.common},
          {"layers_only_first", difference.only_first},
          {"layers_only_second", difference.only_second},
          {"smaller_errors", difference.better},
          {"larger_errors", difference.worse},
          {"equal_errors", difference.equal},
          {"tensors_same_bytes", difference.same_tensors},
          {"tensors_other_bytes", difference.other_tensors},
          {"tensors_in_one", difference.tensors_of_one},
          {"changes", std::move(changes)}};
}

}  // namespace

std::string report_csv(std::span<const OutputReport> outputs) {
  std::string text =
      "output,module,stack,block,projection,rows,cols,bits,group_size,axis,solver,bits_per_weight,relative_error,sqnr_"
      "db,"
      "mean_abs_error,max_abs_error,steps,stopped_early,zeroed,seconds,weighted_relative_error\r\n";
  for (const OutputReport& output : outputs) {
    for (const ReportedLayer& layer : output.file().layers) {
      const ModulePlace place = place_of(layer.module);
      text += fmt::format("{},{},{},{},{},", csv_text(output.name), csv_text(layer.module), csv_text(place.stack),
                          place.layer ? fmt::format("{}", *place.layer) : "", csv_text(place.projection));
      text += fmt::format("{},{},{},{},{},{},", layer.rows, layer.cols, layer.bits, layer.group_size, layer.axis,
                          csv_text(layer.solver));
      text += fmt::format("{},{},{},{},{},", layer.bits_per_weight(), csv_number(layer.relative_error),
                          csv_number(layer.sqnr_db), layer.mean_abs_error, layer.max_abs_error);
      text += fmt::format("{},{},{},{},{}\r\n", layer.steps, layer.stopped_early ? 1 : 0, layer.zeroed, layer.seconds,
                          csv_number(layer.weighted_relative_error));
    }
  }
  return text;
}

boost::json::object report_json(std::span<const OutputReport> outputs) {
  json::array array, differences;
  for (const OutputReport& output : outputs) array.push_back(output_json(output));
  for (std::size_t i = 1; i < outputs.size(); ++i) differences.push_back(difference_json(outputs[0], outputs[i]));
  return {{"format", "halfquad-report-summary"},
          {"version", 1},
          {"outputs", std::move(array)},
          {"differences", std::move(differences)}};
}

}  // namespace halfquad
