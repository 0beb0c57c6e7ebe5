#include "sharding/forward/forward_pass.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <map>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "kernels/portable_math.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/forward/attention.h"
#include "sharding/forward/elementwise.h"
#include "sharding/forward/linear_runner.h"
#include "sharding/forward/panels.h"
#include "sharding/forward/routing.h"
#include "sharding/open_checkpoint.h"

namespace halfquad {
namespace {

/// Memory that threads may take to read into; the rest is for activations.
std::uint64_t share_of_workers(std::uint64_t memory) { return memory / 2; }

void require_fitting(const DecoderConfig& config, const TokenBatch& batch) {
  for (const std::optional<std::int64_t>& limit : {config.window, config.longest_rope}) {
    HALFQUAD_REQUIRE(
        !limit || batch.longest() <= *limit, kUsage,
        fmt::format("a sequence has {} tokens, but the forward pass knows this model's attention up to {}; "
                    "give shorter ones",
                    batch.longest(), *limit));
  }
}

class Pass {
 public:
  Pass(const WeightSource& source, const DecoderModel& model, const TokenBatch& batch, BufferPool& pool,
       const WorkerBuffers& buffers, const Workers& workers, LinearRunner& linear)
      : source_(source),
        model_(model),
        config_(model.config),
        batch_(batch),
        positions_(batch.positions()),
        pool_(pool),
        buffers_(buffers),
        workers_(workers),
        linear_(linear),
        rope_(config_.rope, batch.longest()),
        local_rope_(config_.local_rope, batch.longest()) {}

  ModelPower run() {
    hidden_ = embed();
    for (std::size_t i = 0; i < model_.layers.size(); ++i) {
      add_attention(model_.layers[i], config_.is_local_layer[i] ? local_rope_ : rope_);
      add_mlp(model_.layers[i]);
    }
    if (!model_.head.empty()) record(model_.head, normed(hidden_, *model_.final_norm));
    return std::move(power_);
  }

 private:
  [[nodiscard]] Panels make(std::int64_t features) const { return {pool_, features, batch_.tokens()}; }

  [[nodiscard]] std::vector<float> vector_of(const SourceTensor& tensor) const {
    return read_vector(source_, tensor, buffers_.of(0));
  }

  [[nodiscard]] Panels embed() const {
    Panels out = make(config_.hidden);
    const SourceTensor& table = *model_.embedding;
    std::map<std::int64_t, std::vector<std::int64_t>> places;
    for (std::int64_t i = 0; i < batch_.tokens(); ++i) places[batch_.ids[static_cast<std::size_t>(i)]].push_back(i);
    for (const auto& [id, tokens] : places) {
      const std::vector<float> values = read_row(source_, table, id, buffers_.of(0));
      for (const std::int64_t token : tokens) {
        for (std::int64_t f = 0; f < config_.hidden; ++f) {
          out.at(f, token) = values[static_cast<std::size_t>(f)] * config_.embedding_scale;
        }
      }
    }
    return out;
  }

  void norm(const Panels& in, const SourceTensor& weights, const Panels& out) const {
    rms_norm(workers_, in, vector_of(weights), {config_.norm_epsilon, config_.norm_adds_one}, out);
  }
  [[nodiscard]] Panels normed(const Panels& in, const SourceTensor& weights) const {
    Panels out = make(in.features());
    norm(in, weights, out);
    return out;
  }

  void record(const std::string& module, const Panels& inputs) {
    InputPower power{module, inputs.mean_squares()};
    const bool finite = std::ranges::all_of(power.mean_squares, [](float value) { return std::isfinite(value); });
    HALFQUAD_REQUIRE(finite, kBadInput,
                     fmt::format("the inputs of {} overflow in the forward pass; quantize with --importance weights, "
                                 "which needs none",
                                 quoted(module)));
    power_.modules.push_back(std::move(power));
  }
  /// The same inputs for several layers, each once.
  void record(std::initializer_list<const LinearPart*> parts, const Panels& inputs) {
    const std::size_t first = power_.modules.size();
    for (const LinearPart* part : parts) {
      const auto begin = power_.modules.begin() + static_cast<std::ptrdiff_t>(first);
      const auto same = [&](const InputPower& known) { return known.module == part->module; };
      if (std::any_of(begin, power_.modules.end(), same)) continue;
      if (begin == power_.modules.end()) {
        record(part->module, inputs);
      } else {
        power_.modules.push_back({part->module, begin->mean_squares});
      }
    }
  }

  /// hidden += out, behind a norm where the family has one.
  void add_result(const Panels& out, const SourceTensor* post_norm) const {
    if (post_norm != nullptr) norm(out, *post_norm, out);
    add(workers_, hidden_, out);
  }

  void norm_heads(const Panels& heads, const SourceTensor* weights) const {
    if (weights != nullptr) norm(heads, *weights, heads);
  }

  void add_attention(const DecoderLayer& layer, const RopeTable& rope) {
    Panels mixed;
    {
      Panels query = make(layer.query.rows), key = make(layer.key.rows), value = make(layer.value.rows);
      {
        const Panels in = normed(hidden_, *layer.attention_norm);
        record({&layer.query, &layer.key, &layer.value}, in);
        linear_.run({{&layer.query, nullptr, &in, &query},
                     {&layer.key, nullptr, &in, &key},
                     {&layer.value, nullptr, &in, &value}});
      }
      norm_heads(query, layer.query_norm);
      norm_heads(key, layer.key_norm);
      rope.apply(workers_, query, config_.head_size, positions_);
      rope.apply(workers_, key, config_.head_size, positions_);
      mixed = make(layer.query.rows);
      attend(workers_,
             {config_.heads, config_.key_value_heads, config_.head_size, config_.attention_scale,
              config_.attention_softcap},
             batch_, query, key, value, mixed);
    }
    record({&layer.output}, mixed);
    const Panels out = make(config_.hidden);
    linear_.run({{&layer.output, nullptr, &mixed, &out}});
    add_result(out, layer.after_attention_norm);
  }

  void add_mlp(const DecoderLayer& layer) {
    const Panels in = normed(hidden_, *layer.mlp_norm);
    const Panels out = make(config_.hidden);
    if (layer.experts.empty()) {
      run_gated(layer.mlp.front(), in, out);
    } else {
      run_experts(layer, in, out);
    }
    add_result(out, layer.after_mlp_norm);
  }

  void run_gated(const GatedMlp& mlp, const Panels& in, const Panels& out) {
    const Panels inner = make(mlp.up.rows);
    record({&mlp.gate, &mlp.up}, in);
    linear_.run({{&mlp.up, &mlp.gate, &in, &inner}});
    record({&mlp.down}, inner);
    linear_.run({{&mlp.down, nullptr, &inner, &out}});
  }

  /// All experts of a layer side by side, so that ranks and threads share the work whatever each has to do.
  void run_experts(const DecoderLayer& layer, const Panels& in, const Panels& out) {
    const std::vector<ExpertTokens> routed = choose_experts(layer, in);
    const std::size_t count = layer.experts.size();
    std::vector<Panels> inner(count), results(count);
    {
      std::vector<Panels> inputs(count);
      std::vector<LinearTask> tasks;
      for (std::size_t e = 0; e < count; ++e) {
        const GatedMlp& mlp = layer.experts[e];
        inputs[e] = in.select(pool_, routed[e].tokens);
        inner[e] = Panels(pool_, mlp.up.rows, inputs[e].tokens());
        tasks.push_back({&mlp.up, &mlp.gate, &inputs[e], &inner[e]});
        record({&mlp.gate, &mlp.up}, inputs[e]);
      }
      linear_.run(tasks);
    }
    std::vector<LinearTask> tasks;
    for (std::size_t e = 0; e < count; ++e) {
      results[e] = Panels(pool_, config_.hidden, inner[e].tokens());
      tasks.push_back({&layer.experts[e].down, nullptr, &inner[e], &results[e]});
      record({&layer.experts[e].down}, inner[e]);
    }
    linear_.run(tasks);
    for (std::size_t e = 0; e < count; ++e) add_weighted(routed[e], results[e], out);
    if (!layer.shared_expert.empty()) add_shared(layer, in, out);
  }

  [[nodiscard]] std::vector<ExpertTokens> choose_experts(const DecoderLayer& layer, const Panels& in) {
    const Panels logits = make(layer.router.rows);
    linear_.run({{&layer.router, nullptr, &in, &logits}});
    RoutingKind kind;
    kind.experts_per_token = config_.experts_per_token;
    kind.normalizes = config_.normalizes_experts;
    kind.fewest_tokens = std::min(kind.fewest_tokens, batch_.tokens());
    std::vector<ExpertTokens> routed = route(logits, kind);
    power_.experts += static_cast<std::int64_t>(routed.size());
    power_.filled_experts +=
        std::ranges::count_if(routed, [&](const ExpertTokens& expert) { return expert.routed < kind.fewest_tokens; });
    return routed;
  }

  void add_weighted(const ExpertTokens& expert, const Panels& result, const Panels& out) const {
    for (std::int64_t i = 0; i < expert.routed; ++i) {
      const auto at = static_cast<std::size_t>(i);
      for (std::int64_t f = 0; f < config_.hidden; ++f) {
        out.at(f, expert.tokens[at]) += result.at(f, i) * expert.weights[at];
      }
    }
  }

  /// What every token's shared expert gives, by as much as its gate says.
  void add_shared(const DecoderLayer& layer, const Panels& in, const Panels& out) {
    const Panels gate = make(1);
    const Panels shared = make(config_.hidden);
    linear_.run({{&layer.shared_gate, nullptr, &in, &gate}});
    run_gated(layer.shared_expert.front(), in, shared);
    for (std::int64_t token = 0; token < batch_.tokens(); ++token) {
      const float weight = portable::sigmoid(gate.at(0, token));
      for (std::int64_t f = 0; f < config_.hidden; ++f) out.at(f, token) += shared.at(f, token) * weight;
    }
  }

  const WeightSource& source_;
  const DecoderModel& model_;
  const DecoderConfig& config_;
  const TokenBatch& batch_;
  const std::vector<std::int64_t> positions_;
  BufferPool& pool_;
  const WorkerBuffers& buffers_;
  const Workers& workers_;
  LinearRunner& linear_;
  RopeTable rope_, local_rope_;
  Panels hidden_;  // what goes from layer to layer
  ModelPower power_;
};

}  // namespace

ProgressTotals forward_totals(const DecoderModel& model) {
  ProgressTotals totals;
  const auto add_part = [&totals](const LinearPart& part) {
    if (part.weight == nullptr) return;
    const std::int64_t weights = part.rows * part.cols;
    totals.weights += static_cast<std::uint64_t>(weights);
    totals.source_bytes += static_cast<std::uint64_t>(weights * bytes_of(part.weight->dtype));
    ++totals.tensors;
  };
  for (const DecoderLayer& layer : model.layers) {
    for (const LinearPart* part :
         {&layer.query, &layer.key, &layer.value, &layer.output, &layer.router, &layer.shared_gate}) {
      add_part(*part);
    }
    for (const auto* mlps : {&layer.mlp, &layer.experts, &layer.shared_expert}) {
      for (const GatedMlp& mlp : *mlps) {
        for (const LinearPart* part : {&mlp.gate, &mlp.up, &mlp.down}) add_part(*part);
      }
    }
  }
  return totals;
}

ModelPower measure_inputs(FileSystem& fs, const Checkpoint& checkpoint, const DecoderModel& model,
                          const TokenBatch& batch, const ForwardOptions& options, RankExchange& exchange,
                          ProgressCounters& progress, const StopFlag& stop) {
  require_fitting(model.config, batch);
  const OpenCheckpoint files(fs, checkpoint, options.read_mode);
  const std::uint64_t worker_bytes = LinearRunner::worker_bytes(model, batch.tokens());
  const WorkerBuffers buffers(options.threads, worker_bytes, share_of_workers(options.memory_bytes));
  const std::uint64_t taken = worker_bytes * static_cast<std::uint64_t>(buffers.workers());
  BufferPool pool(options.memory_bytes - taken);
  const WeightSource source{files, options.zero_nonfinite};
  LinearRunner linear({source, exchange, buffers, options.multiply, model.config.gate, progress, stop});
  const Workers workers{options.threads, stop};
  return Pass(source, model, batch, pool, buffers, workers, linear).run();
}

}  // namespace halfquad
