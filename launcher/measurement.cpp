#include "launcher/measurement.h"

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include <fmt/format.h>

#include "io/safetensors_header.h"
#include "kernels/fused_gemm.h"
#include "launcher/version.h"
#include "runtime/progress.h"
#include "sharding/source_digest.h"

namespace halfquad {

std::string Subject::text() const {
  std::string all;
  for (const auto& [key, value] : metadata) all += fmt::format("{}={}\n", key, value);
  return all;
}

ModelPower measure_on_host(const Context& context, const MachineOptions& machine, const Measurement& what,
                           RankExchange& exchange) {
  ForwardOptions forward;
  forward.threads = machine.thread_count(what.processes);
  forward.memory_bytes = machine.memory_bytes(what.processes);
  forward.read_mode = machine.read_mode();
  forward.multiply = machine.isa.empty() ? fused_multiply() : fused_multiply(machine.isa);
  forward.zero_nonfinite = what.zero_nonfinite;
  ProgressCounters progress;
  const ProgressTotals totals = forward_totals(what.subject.model);
  ProgressOptions shown = machine.progress_options();
  if (exchange.rank() != 0) shown.mode = ProgressMode::kNone;
  constexpr char kPhase[] = "measuring";
  ProgressMeter meter(progress, totals, shown, kPhase);
  std::optional<JobMonitor::Stage> stage;
  if (what.monitor != nullptr) stage.emplace(*what.monitor, kPhase, progress, totals);
  return measure_inputs(context.fs, what.subject.checkpoint, what.subject.model, what.subject.batch, forward, exchange,
                        progress, context.stop);
}

std::map<std::string, std::string> measurement_metadata(const Checkpoint& checkpoint, const TokenBatch& batch) {
  return {{"format", "pt"},
          {"halfquad_version", HALFQUAD_VERSION},
          {"model_digest", source_digest(checkpoint)},
          {"tokens", fmt::format("{}", batch.tokens())},
          {"sequences", fmt::format("{}", batch.sequences())},
          {"length", fmt::format("{}", batch.longest())}};
}

void add_random_tokens(std::map<std::string, std::string>& metadata, const RandomTokens& random) {
  metadata["seed"] = fmt::format("{}", random.seed);
  metadata["command"] =
      fmt::format("halfquad importance --tokens {} --length {} --seed {}", random.tokens, random.length, random.seed);
}

void add_experts(std::map<std::string, std::string>& metadata, const ModelPower& power) {
  if (power.experts == 0) return;
  metadata["experts"] = fmt::format("{}", power.experts);
  metadata["experts_with_few_tokens"] = fmt::format("{}", power.filled_experts);
}

std::string importance_file(ModelPower& power, const std::map<std::string, std::string>& metadata) {
  std::vector<TensorEntry> entries;
  std::uint64_t at = 0;
  for (const InputPower& module : power.modules) {
    const std::uint64_t bytes = module.mean_squares.size() * sizeof(float);
    entries.push_back({.name = module.module,
                       .dtype = DType::kF32,
                       .shape = {static_cast<std::int64_t>(module.mean_squares.size())},
                       .begin = at,
                       .end = at + bytes});
    at += bytes;
  }
  std::string file = serialize_safetensors_header(entries, metadata);
  file.reserve(file.size() + at);
  for (InputPower& module : power.modules) {
    const auto bytes = std::as_bytes(std::span(module.mean_squares));
    file.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    module.mean_squares = {};
  }
  return file;
}

}  // namespace halfquad
