#include "sharding/verify_report.h"

#include <algorithm>

#include <boost/json/array.hpp>
#include <boost/json/value.hpp>
#include <fmt/format.h>

#include "io/json_node.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr char kName[] = "halfquad_report.json";

RunReport::Layer parse_layer(const JsonNode& node) {
  const JsonNode shape = node.at("shape");
  HALFQUAD_REQUIRE(shape.array().size() == 2, kBadInput,
                   "halfquad_report.json is malformed: the shape of a layer is not two numbers");
  RunReport::Layer layer{.rows = shape.element(0).integer(),
                         .cols = shape.element(1).integer(),
                         .bits = node.at("bits").text(),
                         .group_size = node.at("group_size").integer(),
                         .axis = node.at("axis").integer(),
                         .mean_abs_error = node.at("mean_abs_error").number(),
                         .relative_error = node.at("relative_error").optional_number(),
                         .zeroed = node.at("zeroed").integer()};
  if (const auto solver = node.find("solver")) layer.solver = solver->text();
  if (!node.find("importance")) return layer;  // an earlier program's report
  layer.importance = importance_from_name(node.at("importance").text()).value_or(Importance::kNone);
  layer.importance_power = node.at("importance_power").number();
  layer.weighted_relative_error = node.at("weighted_relative_error").optional_number();
  return layer;
}

}  // namespace

std::vector<std::string> other_source_files(const RunReport& report, const Checkpoint& source) {
  std::vector<std::string> others;
  for (const RunReport::File& reported : report.source_files) {
    const bool known = std::ranges::any_of(source.files(), [&](const SourceFile& file) {
      return reported.name == file.name && reported.bytes == file.bytes &&
             reported.header_xxh3 == fmt::format("{:016x}", file.header_digest);
    });
    if (known) continue;
    others.push_back(
        fmt::format("the output was made from another source: no file of {} is {} with {} bytes and header checksum {}",
                    halfquad::quoted(source.directory().string()), halfquad::quoted(reported.name), reported.bytes,
                    halfquad::quoted(reported.header_xxh3)));
  }
  return others;
}

RunReport parse_run_report(const json::object& report) {
  const json::value value(report);
  const JsonNode root(value, kName);
  HALFQUAD_REQUIRE(
      root.at("format").text() == "halfquad-report", kBadInput,
      fmt::format("halfquad_report.json has the unknown format {}", halfquad::quoted(root.at("format").text())));
  HALFQUAD_REQUIRE(
      root.at("version").integer() == 1, kBadInput,
      fmt::format("halfquad_report.json has version {}; this program reads version 1", root.at("version").integer()));
  RunReport out;
  const JsonNode files = root.at("source").at("files");
  for (std::size_t i = 0; i < files.array().size(); ++i) {
    const JsonNode file = files.element(i);
    out.source_files.push_back({file.at("name").text(), static_cast<std::uint64_t>(file.at("bytes").integer()),
                                file.at("header_xxh3").text()});
  }
  const JsonNode layers = root.at("layers");
  for (std::size_t i = 0; i < layers.array().size(); ++i) {
    const JsonNode layer = layers.element(i);
    out.layers[layer.at("module").text()] = parse_layer(layer);
  }
  const JsonNode tensors = root.at("tensors");
  for (const auto& member : tensors.object()) {
    const JsonNode tensor = tensors.at(member.key());
    out.tensors[std::string(member.key())] = {
        .xxh3 = tensor.at("xxh3").text(),
        .run_bytes = static_cast<std::uint64_t>(tensor.at("run_bytes").integer()),
        .block_bytes = static_cast<std::uint64_t>(tensor.at("block_bytes").integer())};
  }
  return out;
}

}  // namespace halfquad
