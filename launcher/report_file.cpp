#include "launcher/report_file.h"

#include <cmath>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "io/json.h"
#include "io/json_node.h"
#include "kernels/quant_spec.h"
#include "launcher/side_files.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kReportLimit = 1ULL << 30;

std::uint64_t count_of(const JsonNode& node) { return static_cast<std::uint64_t>(node.integer()); }

double measure(const JsonNode& node) {
  const double value = node.number();
  if (!std::isfinite(value) || value < 0) node.fail("is not a non-negative number");
  return value;
}

std::optional<double> finite(const JsonNode& node) {
  const std::optional<double> value = node.optional_number();
  if (value && !std::isfinite(*value)) node.fail("is not a finite number");
  return value;
}

std::optional<double> optional_measure(const JsonNode& node) {
  const std::optional<double> value = finite(node);
  if (value && *value < 0) node.fail("is not a non-negative number");
  return value;
}

/// What `read` makes of every element of an array.
template <class Read>
auto each(const JsonNode& array, Read read) {
  std::vector<decltype(read(array))> values;
  const std::size_t count = array.array().size();
  values.reserve(count);
  for (std::size_t i = 0; i < count; ++i) values.push_back(read(array.element(i)));
  return values;
}

std::vector<std::string> texts(const JsonNode& array) {
  return each(array, [](const JsonNode& node) { return node.text(); });
}

/// Older versions' reports say nothing of weighted errors.
std::optional<double> weighted_error(const JsonNode& node) {
  const auto error = node.find("weighted_relative_error");
  return error ? optional_measure(*error) : std::nullopt;
}

ReportFile::Totals parse_totals(const JsonNode& node) {
  return {.source_bytes = count_of(node.at("source_bytes")),
          .output_bytes = count_of(node.at("output_bytes")),
          .quantized_bytes = count_of(node.at("quantized_bytes")),
          .kept_bytes = count_of(node.at("kept_bytes")),
          .quantized_weights = count_of(node.at("quantized_weights")),
          .bits_per_weight = measure(node.at("bits_per_weight")),
          .relative_error = optional_measure(node.at("relative_error")),
          .sqnr_db = finite(node.at("sqnr_db")),
          .weighted_relative_error = weighted_error(node),
          .mean_abs_error = measure(node.at("mean_abs_error")),
          .max_abs_error = measure(node.at("max_abs_error")),
          .seconds = measure(node.at("seconds")),
          .bytes_read = count_of(node.at("bytes_read")),
          .bytes_written = count_of(node.at("bytes_written")),
          .peak_resident_bytes = count_of(node.at("peak_resident_bytes")),
          .memory_bytes = count_of(node.at("memory_bytes")),
          .threads = node.at("threads").integer(),
          .solver = node.at("solver").text()};
}

ReportedLayer parse_layer(const JsonNode& node) {
  const JsonNode shape = node.at("shape");
  if (shape.array().size() != 2) shape.fail("is not two numbers");
  ReportedLayer layer{.module = node.at("module").text(),
                      .rows = shape.element(0).integer(),
                      .cols = shape.element(1).integer(),
                      .bits = node.at("bits").text(),
                      .group_size = node.at("group_size").integer(),
                      .axis = node.at("axis").integer(),
                      .per_tensor = node.at("per_tensor").boolean(),
                      .solver = node.at("solver").text(),
                      .steps = node.at("steps").integer(),
                      .stopped_early = node.at("stopped_early").boolean(),
                      .mean_abs_error = measure(node.at("mean_abs_error")),
                      .max_abs_error = measure(node.at("max_abs_error")),
                      .relative_error = optional_measure(node.at("relative_error")),
                      .sqnr_db = finite(node.at("sqnr_db")),
                      .weighted_relative_error = weighted_error(node),
                      .zeroed = node.at("zeroed").integer(),
                      .seconds = measure(node.at("seconds")),
                      .stored_bytes = {}};
  if (!code_width_from_name(layer.bits)) node.at("bits").fail("is not a width of codes");
  if (const auto bytes = node.find("stored_bytes")) layer.stored_bytes = count_of(*bytes);
  return layer;
}

ReportedRank parse_rank(const JsonNode& node) {
  ReportedRank rank{.host = node.at("host").text(),
                    .bytes_read = count_of(node.at("bytes_read")),
                    .bytes_written = count_of(node.at("bytes_written")),
                    .weights = count_of(node.at("weights")),
                    .read_wait_seconds = measure(node.at("read_wait_seconds")),
                    .solve_seconds = measure(node.at("solve_seconds")),
                    .write_seconds = measure(node.at("write_seconds")),
                    .devices = {}};
  if (const auto devices = node.find("devices")) rank.devices = texts(*devices);
  return rank;
}

ReportFile::Converted parse_converted(const JsonNode& node) {
  return {.path = node.at("path").text(),
          .format = node.at("format").text(),
          .exact_layers = node.at("exact_layers").integer(),
          .changed_layers = node.at("changed_layers").array().size()};
}

/// What older versions did not write yet.
void parse_optional(const JsonNode& root, ReportFile& report) {
  if (const auto format = root.at("settings").find("format")) report.format = format->text();
  if (const auto ranks = root.find("ranks")) report.ranks = each(*ranks, parse_rank);
  if (const auto assembly = root.find("assembly")) {
    report.assembly = assembly->at("how").text();
    report.files = assembly->at("files").integer();
  }
  if (const auto converted = root.find("converted")) report.converted = parse_converted(*converted);
}

void require_distinct(const ReportFile& report) {
  std::set<std::string_view> modules;
  for (const ReportedLayer& layer : report.layers) {
    HALFQUAD_REQUIRE(
        modules.insert(layer.module).second, kBadInput,
        fmt::format("{} is malformed: it has the layer {} twice", quoted(report.path.string()), quoted(layer.module)));
  }
}

}  // namespace

double ReportedLayer::bits_per_weight() const noexcept {
  if (stored_bytes && weights() > 0) return 8.0 * static_cast<double>(*stored_bytes) / weights();
  return bits == "1.58" ? 1.6 : static_cast<double>(bits.front() - '0');  // five of three values lie in a byte
}

std::filesystem::path find_report(FileSystem& fs, const std::string& output) {
  const std::filesystem::path given(output);
  const FileKind kind = fs.kind(given);
  HALFQUAD_REQUIRE(kind != FileKind::kMissing, kBadInput, fmt::format("{} does not exist", quoted(output)));
  if (kind != FileKind::kDirectory && given.extension() == ".json") return given;
  const std::filesystem::path path =
      kind == FileKind::kDirectory ? given / kReportName : std::filesystem::path(output + "." + kReportName);
  HALFQUAD_REQUIRE(fs.kind(path) == FileKind::kFile, kBadInput,
                   fmt::format("{} has no {}: it is not an output of halfquad, or its report was removed",
                               quoted(output), quoted(path.filename().string())));
  return path;
}

ReportFile parse_report_file(std::string_view text, const std::filesystem::path& path, const std::string& output) {
  const std::string name = quoted(path.string());
  const boost::json::value value = parse_json(text, name);
  const JsonNode root(value, name);
  if (root.at("format").text() != "halfquad-report") {
    root.at("format").fail("is not halfquad-report: this is another kind of file");
  }
  HALFQUAD_REQUIRE(root.at("version").integer() == 1, kBadInput,
                   fmt::format("{} has version {}; this program reads version 1", name, root.at("version").integer()));
  ReportFile report;
  report.path = path;
  report.output = output;
  report.version = root.at("halfquad").text();
  report.command = texts(root.at("command"));
  report.source_path = root.at("source").at("path").text();
  report.source_files = each(root.at("source").at("files"), [](const JsonNode& file) {
    return ReportFile::SourceFile{file.at("name").text(), count_of(file.at("bytes")), file.at("header_xxh3").text()};
  });
  report.scale_dtype = root.at("settings").at("scale_dtype").text();
  report.nonfinite = root.at("settings").at("nonfinite").text();
  report.totals = parse_totals(root.at("totals"));
  report.layers = each(root.at("layers"), parse_layer);
  report.kept = each(root.at("kept"), [](const JsonNode& kept) {
    return ReportFile::Kept{kept.at("name").text(), count_of(kept.at("bytes")), kept.at("reason").text()};
  });
  const JsonNode tensors = root.at("tensors");
  for (const auto& member : tensors.object()) {
    report.checksums.push_back({std::string(member.key()), tensors.at(member.key()).at("xxh3").text()});
  }
  parse_optional(root, report);
  require_distinct(report);
  return report;
}

ReportFile read_report_file(FileSystem& fs, const std::string& output) {
  const std::filesystem::path path = find_report(fs, output);
  return parse_report_file(read_text(fs, path, kReportLimit), path, output);
}

}  // namespace halfquad
