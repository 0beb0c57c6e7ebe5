#include "launcher/report.h"

#include <algorithm>
#include <cmath>

#include <boost/json/array.hpp>
#include <fmt/format.h>

#include "launcher/conversion_summary.h"
#include "launcher/inventory.h"
#include "launcher/version.h"
#include "runtime/text.h"
#include "sharding/block_type.h"

namespace halfquad {
namespace {

namespace json = boost::json;

json::value nullable(const std::optional<double>& value) { return value ? json::value(*value) : json::value(nullptr); }

double per_second(std::uint64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

json::object source_object(const Checkpoint& checkpoint) {
  json::array files;
  for (const SourceFile& file : checkpoint.files()) {
    files.push_back(
        {{"name", file.name}, {"bytes", file.bytes}, {"header_xxh3", fmt::format("{:016x}", file.header_digest)}});
  }
  const std::string path =
      checkpoint.is_single_file() ? checkpoint.files().front().path.string() : checkpoint.directory().string();
  return {{"path", path}, {"files", std::move(files)}};
}

json::object totals_object(const Job& job, const RunResult& result, const RunFacts& facts) {
  const Inventory inventory = take_inventory(job.checkpoint, job.decisions, job.layout);
  const ErrorFigures errors = error_figures(total_error(result), inventory.weights);
  const auto stopped = std::count_if(result.tensors.begin(), result.tensors.end(),
                                     [](const TensorResult& tensor) { return tensor.stopped_early; });
  std::int64_t zeroed = 0;
  for (const TensorResult& tensor : result.tensors) zeroed += tensor.zeroed;
  return {
      {"source_bytes", inventory.source_bytes},
      {"output_bytes", facts.output_bytes},
      {"quantized_layers", inventory.quantized_tensors()},
      {"quantized_weights", inventory.weights},
      {"quantized_bytes", inventory.quantized_output_bytes},
      {"kept_bytes", inventory.kept_bytes},
      {"bits_per_weight", inventory.bits_per_weight()},
      {"relative_error", nullable(errors.relative)},
      {"weighted_relative_error", nullable(errors.weighted)},
      {"sqnr_db", nullable(errors.sqnr_db)},
      {"mean_abs_error", errors.mean_abs},
      {"max_abs_error", errors.max_abs},
      {"layers_stopped_early", stopped},
      {"weights_zeroed", zeroed},
      {"seconds", facts.seconds},
      {"bytes_read", facts.bytes_read},
      {"bytes_written", facts.bytes_written},
      {"read_gb_per_s", per_second(facts.bytes_read, facts.seconds) / 1e9},
      {"mweights_per_s", per_second(inventory.weights, facts.seconds) / 1e6},
      {"read_wait_seconds", result.read_wait_seconds},
      {"solve_seconds", result.solve_seconds},
      {"write_seconds", result.write_seconds},
      {"tiles_reread", result.tiles_reread},
      {"strips_redone", result.strips_redone},
      {"device_weights", result.device_weights},
      {"peak_resident_bytes", facts.peak_resident_bytes},
      {"peak_buffer_bytes", result.peak_buffer_bytes},
      {"memory_bytes", facts.memory_bytes},
      {"threads", facts.threads},
      {"solver", facts.solver},
  };
}

/// What the columns of a layer really were weighed by.
Importance importance_of(const QuantizedTensor& layer) {
  if (layer.weighs_columns()) return Importance::kWeights;
  return layer.takes_importance() ? Importance::kFile : Importance::kNone;
}

json::object layer_object(const OutputLayout& layout, const QuantizedTensor& layer, const TensorResult& result) {
  const QuantSpec& spec = layer.spec;
  const ErrorFigures errors = error_figures(result.error, static_cast<std::uint64_t>(layer.rows * layer.cols));
  return {
      {"module", layer.module},
      {"shape", json::array{layer.rows, layer.cols}},
      {"bits", name_of(spec.width)},
      {"group_size", layer.tiles.grouped().group_elems},
      {"axis", spec.axis},
      {"solver", spec.super_blocks ? block_type_of(spec)->name() : name_of(spec.solver)},
      {"grid", spec.grid == FloatGrid::kNone ? json::value(nullptr) : json::value(name_of(spec.grid))},
      {"iters", spec.solver == SolverKind::kAls ? spec.rounds : spec.iters},
      {"importance", name_of(importance_of(layer))},
      {"importance_power", spec.importance_power},
      {"round_zero", spec.round_zero},
      {"per_tensor", !spec.channel_wise},
      {"stored_bytes", stored_layer_bytes(layer, layout)},
      {"steps", result.steps},
      {"stopped_early", result.stopped_early},
      {"mean_abs_error", errors.mean_abs},
      {"relative_error", nullable(errors.relative)},
      {"weighted_relative_error", nullable(errors.weighted)},
      {"sqnr_db", nullable(errors.sqnr_db)},
      {"max_abs_error", errors.max_abs},
      {"zeroed", result.zeroed},
      {"seconds", result.seconds},
  };
}

json::array ranks_array(const RunFacts& facts) {
  json::array ranks;
  for (const RankFacts& rank : facts.ranks) {
    ranks.push_back({{"host", is_utf8(rank.host) ? rank.host : quoted(rank.host)},
                     {"bytes_read", rank.bytes_read},
                     {"bytes_written", rank.bytes_written},
                     {"bytes_received", rank.stats.bytes_received},
                     {"bytes_by_device_link", rank.stats.bytes_by_device_link},
                     {"weights", rank.weights},
                     {"devices", json::array(rank.devices.begin(), rank.devices.end())},
                     {"device_weights", rank.stats.device_weights},
                     {"read_gb_per_s", per_second(rank.bytes_read, facts.seconds) / 1e9},
                     {"read_wait_seconds", rank.stats.read_wait_seconds},
                     {"solve_seconds", rank.stats.solve_seconds},
                     {"write_seconds", rank.stats.write_seconds},
                     {"peak_buffer_bytes", rank.stats.peak_buffer_bytes}});
  }
  return ranks;
}

json::array kept_array(const Job& job) {
  json::array kept;
  for (const Decision& decision : job.decisions) {
    if (decision.quantize()) continue;
    const SourceTensor& tensor = job.checkpoint.tensors()[decision.source];
    std::string reason(describe(decision.keep));
    if (!decision.why.empty()) reason += ": " + decision.why;
    kept.push_back({{"name", tensor.name}, {"bytes", tensor.stored_bytes()}, {"reason", reason}});
  }
  return kept;
}

json::object tensors_object(const OutputLayout& layout, const RunResult& result) {
  json::object tensors;
  for (std::size_t i = 0; i < layout.entries().size(); ++i) {
    const BlockLayout& blocks = layout.contents()[i].blocks;
    tensors[layout.entries()[i].name] = {
        {"xxh3", result.checksums[i]}, {"run_bytes", blocks.run_bytes}, {"block_bytes", blocks.block_bytes}};
  }
  return tensors;
}

json::object importance_object(const Job& job) {
  const GivenImportance& importance = *job.importance;
  const std::string& path = importance.file().name();
  const bool measured = job.has_measured();
  return {{"path", measured ? json::value() : json::value(is_utf8(path) ? path : quoted(path))},
          {"kind", measured ? job.measured->about : std::string(importance.file().kind_name())},
          {"xxh3", importance.digest()},
          {"measuring_seconds", measured ? json::value(job.measured->seconds) : json::value()},
          {"entries", importance.file().entries().size()},
          {"layers", importance.layers()},
          {"missing", json::array(importance.missing().begin(), importance.missing().end())}};
}

}  // namespace

ErrorFigures error_figures(const ErrorSums& sums, std::uint64_t weights) {
  ErrorFigures figures;
  figures.mean_abs = weights == 0 ? 0 : sums.abs.value() / static_cast<double>(weights);
  figures.max_abs = static_cast<double>(sums.max_abs);
  const double error = sums.square.value();
  const double signal = sums.weight2.value();
  if (signal > 0) figures.relative = std::sqrt(error / signal);
  if (signal > 0 && error > 0) figures.sqnr_db = 10 * std::log10(signal / error);
  if (signal == 0 && error == 0) figures.relative = 0.0;
  const double weighted_signal = sums.weighted_weight2.value();
  if (weighted_signal > 0) figures.weighted = std::sqrt(sums.weighted_square.value() / weighted_signal);
  return figures;
}

ErrorSums total_error(const RunResult& result) {
  ErrorSums total;
  for (const TensorResult& tensor : result.tensors) total.add(tensor.error);
  return total;
}

boost::json::object build_report(const Job& job, const SpecOptions& spec, const RunResult& result,
                                 const RunFacts& facts, const std::vector<std::string>& command) {
  json::array layers;
  for (std::size_t i = 0; i < job.layout.quantized().size(); ++i) {
    layers.push_back(layer_object(job.layout, job.layout.quantized()[i], result.tensors[i]));
  }
  json::array words;
  for (const std::string& word : command) words.emplace_back(is_utf8(word) ? word : quoted(word));
  json::object report = {
      {"format", "halfquad-report"},
      {"version", 1},
      {"halfquad", HALFQUAD_VERSION},
      {"command", std::move(words)},
      {"source", source_object(job.checkpoint)},
      {"settings",
       {{"format", job.layout.format().name()},
        {"scale_dtype", name_of(job.layout.stored())},
        {"nonfinite", spec.nonfinite}}},
      {"totals", totals_object(job, result, facts)},
      {"ranks", ranks_array(facts)},
      {"assembly",
       {{"how", facts.assembly.gathered ? "gather" : "direct"},
        {"writers", facts.assembly.writers},
        {"files", job.layout.files().size()}}},
      {"resumed", {{"source_bytes", facts.resume.source_bytes}, {"pieces_damaged", facts.resume.damaged}}},
      {"layers", std::move(layers)},
      {"kept", kept_array(job)},
      {"tensors", tensors_object(job.layout, result)},
  };
  if (job.chosen) report["target"] = job.chosen->json();
  if (job.importance) report["importance"] = importance_object(job);
  if (job.converted) report["converted"] = conversion_json(job, result);
  return report;
}

}  // namespace halfquad
