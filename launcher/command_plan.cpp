#include <memory>
#include <optional>
#include <ostream>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <fmt/format.h>

#include "io/json.h"
#include "kernels/solver.h"
#include "launcher/bench.h"
#include "launcher/commands.h"
#include "launcher/job.h"
#include "launcher/measured_importance.h"
#include "launcher/options.h"
#include "launcher/plan_fit.h"
#include "launcher/plan_ranks.h"
#include "launcher/plan_slurm.h"
#include "launcher/summary.h"
#include "launcher/table.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/cost_model.h"
#include "sharding/source_model.h"
#include "sharding/synth_model.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr char kFooter[] =
    "\nRates in bytes per second (2GB, 500MB) and weights per second per core; halfquad bench measures them.\n"
    "\nWhether the output fits on a card counts its weights, the cache of --context tokens of one sequence in 16 bit,\n"
    "as config.json describes it, and 1 GiB for the engine. The expected error, by which --fit chooses, is that of\n"
    "rounding to nearest on Gaussian weights: it falls with more bits and with smaller groups. Sizes are those of the\n"
    "output's layout, not estimates. Rates that are neither given nor measured are assumed.\n"
    "\nExamples:\n"
    "  halfquad plan ./model --bits 3 --group-size 128\n"
    "  halfquad plan ./model --fit 24GiB --context 16384           the best settings for a card, and their command\n"
    "  halfquad plan ./model --fit 12GiB --format gguf\n"
    "  halfquad plan ./model --target-bpw 3.5                      what an output of that size would be\n"
    "  halfquad plan ./model --read-rate 2GB --write-rate 1GB --solve-rate 400MB\n"
    "  halfquad plan ./model --measure --json\n"
    "  halfquad plan ./model --ranks 64 --nodes 8 --rates cluster.json\n"
    "  halfquad plan ./model --slurm --nodes 4 --gpus-per-node 8\n"
    "  halfquad plan --preset llama-405b --simulate --ranks 16,64,256 --stragglers 0.02:2\n"
    "\nA --rates file is a JSON object of any of these; what it leaves out is assumed, and 0 is no limit:\n"
    "  {\"read_gb_per_s_per_node\": 5, \"write_gb_per_s_per_node\": 2.5,\n"
    "   \"file_system_gb_per_s\": 0, \"mweights_per_s_per_core\": 200, \"cores_per_rank\": 8}\n"
    "file_system_gb_per_s is what all nodes together may read and write.\n";

struct PlanOptions {
  std::string model, preset;
  std::string read_rate, write_rate, solve_rate;
  bool measure = false;
  bool as_json = false;
  SpecOptions spec;
  MachineOptions machine;
  RankOptions ranks;
  SlurmOptions slurm;
  FitOptions fit;
};

Rates rates_of(const Context& context, const PlanOptions& options, const Job& job) {
  Rates rates;
  if (options.measure) {
    const QuantSpec spec = take_inventory(job.checkpoint, job.decisions, job.layout).specs.front().spec;
    const auto solver = options.machine.solver_factory()();
    rates.weights_per_s_per_core = measure_solve_rate(*solver, spec);
    rates.read_bytes_per_s = measure_read_rate(context, job.checkpoint, options.machine);
  }
  const auto given = [](const std::string& text, const char* option, double measured) {
    return text.empty() ? measured : static_cast<double>(parse_size_option(text, option));
  };
  rates.read_bytes_per_s = given(options.read_rate, "--read-rate", rates.read_bytes_per_s);
  rates.write_bytes_per_s = given(options.write_rate, "--write-rate", rates.write_bytes_per_s);
  rates.weights_per_s_per_core = given(options.solve_rate, "--solve-rate", rates.weights_per_s_per_core);
  return rates;
}

/// What nodes of a cluster would do, at best.
struct NodesBound {
  Topology topology;
  int cores = 0;
  Bound bound;
};

struct PlanFacts {
  Inventory inventory;
  Rates rates;
  bool rates_assumed = false;  ///< Some of them.
  std::vector<NodesBound> nodes;
  CardFit fit;
  std::optional<SizedChoice> fitted;  ///< --fit: the choice that the plan is of.
  std::string command;
  Alternatives alternatives;
  int threads = 1;
  std::uint64_t memory_bytes = 0;
  std::vector<std::string> warnings;
  bool measures = false;  ///< The inputs of the layers, before the job.
  std::optional<RankPlan> ranks;
  std::optional<SlurmRequest> slurm;
};

/// Takes what is usual for the rates that are unknown.
void assume_rates(PlanFacts& facts) {
  const ClusterRates usual;
  const auto assume = [&](double& rate, double value) {
    if (rate > 0) return;
    rate = value;
    facts.rates_assumed = true;
  };
  assume(facts.rates.read_bytes_per_s, usual.read_bytes_per_s_per_node);
  assume(facts.rates.write_bytes_per_s, usual.write_bytes_per_s_per_node);
  assume(facts.rates.weights_per_s_per_core, usual.weights_per_s_per_core);
}

std::vector<NodesBound> nodes_bounds(const Plan& plan, const Rates& rates) {
  constexpr int kRanksPerNode = 8;
  ClusterRates cluster;
  cluster.read_bytes_per_s_per_node = rates.read_bytes_per_s;
  cluster.write_bytes_per_s_per_node = rates.write_bytes_per_s;
  cluster.weights_per_s_per_core = rates.weights_per_s_per_core;
  std::vector<NodesBound> found;
  for (const int nodes : {1, 4, 16}) {
    const Topology topology{nodes * kRanksPerNode, nodes};
    const int cores = topology.ranks * cluster.cores_per_rank;
    found.push_back({topology, cores, bound_of(plan, cluster, topology, cores)});
  }
  return found;
}

std::string rate_text(const PlanFacts& facts) {
  return fmt::format("reading {:.2f} GB/s, writing {:.2f} GB/s, solving {:.2f} M weights/s per core{}",
                     facts.rates.read_bytes_per_s / 1e9, facts.rates.write_bytes_per_s / 1e9,
                     facts.rates.weights_per_s_per_core / 1e6,
                     facts.rates_assumed ? " (assumed; --measure, or --read-rate and the like, make it true)" : "");
}

std::string nodes_text(const PlanFacts& facts) {
  std::string counts, seconds;
  for (const NodesBound& nodes : facts.nodes) {
    counts += fmt::format("{}{}", counts.empty() ? "" : " / ", nodes.topology.nodes);
    seconds += fmt::format("{}{:.1f}", seconds.empty() ? "" : " / ", nodes.bound.seconds);
  }
  const NodesBound& one = facts.nodes.front();
  return fmt::format("{} with {} cores each: at least {} s; --ranks N --nodes M says more", counts, one.cores, seconds);
}

std::string model_text(const std::string& model, const Job& job, const PlanFacts& facts) {
  std::uint64_t weights = 0;
  for (const SourceTensor& tensor : job.checkpoint.tensors()) weights += static_cast<std::uint64_t>(tensor.elements());
  const std::string& architecture = facts.fit.model.architecture;
  return fmt::format("{}: {}{} weights in {} tensors, {}\n", quoted(model),
                     architecture.empty() ? "" : one_line(architecture) + ", ", human_count(weights),
                     job.checkpoint.tensors().size(), human_bytes(facts.inventory.source_bytes));
}

std::string fitted_text(const Job& job, const PlanFacts& facts) {
  if (facts.command.empty()) return {};
  Table table("ll", {});
  if (facts.fitted) {
    table.add_row({"best fit", fmt::format("{}: {:.3f} bits per quantized weight", facts.fitted->choice.options(),
                                           facts.fitted->bits_per_weight)});
  }
  if (job.chosen) table.add_row({"target", job.chosen->text()});
  table.add_row({"command", facts.command});
  return table.text(2);
}

std::string plan_text(const std::string& model, const Job& job, const PlanFacts& facts) {
  if (facts.slurm) return slurm_text(*facts.slurm);
  const Plan& plan = job.plan;
  std::string text = model_text(model, job, facts) + fitted_text(job, facts) + card_text(facts.fit) + "\n";
  text += inventory_text(facts.inventory);
  Table table("ll", {});
  table.add_row({"size", fmt::format("{} -> {}, {:.3f} bits per quantized weight, {} left unquantized",
                                     human_bytes(facts.inventory.source_bytes), human_bytes(plan.output_bytes),
                                     facts.inventory.bits_per_weight(), human_bytes(facts.inventory.kept_bytes))});
  if (job.layout.files().size() > 1) {
    table.add_row({"files", fmt::format("{} and {}", job.layout.files().size(), kIndexName)});
  }
  table.add_row({"work", fmt::format("{} pieces, {} to read, {} weights to solve", plan.items.size(),
                                     human_bytes(plan.read_bytes), human_count(plan.weights))});
  table.add_row(
      {"memory",
       fmt::format("at least {}; {} keep {} threads busy; the budget is {}{}", human_bytes(minimum_memory(plan)),
                   human_bytes(comfortable_memory(plan, facts.threads)), facts.threads, human_bytes(facts.memory_bytes),
                   facts.memory_bytes < minimum_memory(plan) ? ", which is too little" : "")});
  if (facts.ranks) return text + "\n" + table.text(2) + ranks_text(*facts.ranks);
  const Prediction prediction = predict(plan, facts.rates, facts.threads);
  table.add_row({"rates", rate_text(facts)});
  table.add_row(
      {"time here", fmt::format("about {:.1f} s, bound by {} (reading {:.1f} s, solving {:.1f} s, writing {:.1f} s)",
                                prediction.seconds, prediction.bound, prediction.read_seconds, prediction.solve_seconds,
                                prediction.write_seconds)});
  if (facts.measures) {
    const double seconds = measuring_seconds(prediction.read_seconds, prediction.solve_seconds);
    table.add_row({"before that", measuring_text(seconds)});
  }
  table.add_row({"on nodes", nodes_text(facts)});
  return text + "\n" + table.text(2) + "\n" + alternatives_text(facts.alternatives, facts.fit);
}

void add_fit_json(const Job& job, const PlanFacts& facts, json::object& out) {
  const std::string command = is_utf8(facts.command) ? facts.command : quoted(facts.command);
  if (job.chosen) {
    out["target"] = job.chosen->json();
    out["target"].as_object()["command"] = command;
  }
  if (facts.fitted) {
    out["fit"] = {{"options", facts.fitted->choice.options()},
                  {"command", command},
                  {"bytes", facts.fitted->bytes},
                  {"bits_per_weight", facts.fitted->bits_per_weight},
                  {"expected_error", facts.fitted->expected_error}};
  }
  if (facts.ranks) return;
  for (auto& [key, value] : alternatives_json(facts.alternatives, facts.fit)) out[key] = value;
}

void add_times_json(const Job& job, const PlanFacts& facts, json::object& out) {
  const Prediction prediction = predict(job.plan, facts.rates, facts.threads);
  out["prediction"] = {{"seconds", prediction.seconds},
                       {"bound", prediction.bound},
                       {"read_seconds", prediction.read_seconds},
                       {"solve_seconds", prediction.solve_seconds},
                       {"write_seconds", prediction.write_seconds},
                       {"measuring_seconds",
                        facts.measures ? measuring_seconds(prediction.read_seconds, prediction.solve_seconds) : 0.0}};
  out["rates"] = {{"read_bytes_per_s", facts.rates.read_bytes_per_s},
                  {"write_bytes_per_s", facts.rates.write_bytes_per_s},
                  {"weights_per_s_per_core", facts.rates.weights_per_s_per_core},
                  {"assumed", facts.rates_assumed}};
  json::array nodes;
  for (const NodesBound& some : facts.nodes) {
    nodes.push_back({{"nodes", some.topology.nodes},
                     {"ranks", some.topology.ranks},
                     {"cores", some.cores},
                     {"at_least_seconds", some.bound.seconds},
                     {"bound", some.bound.name}});
  }
  out["nodes"] = std::move(nodes);
}

json::object plan_json(const Job& job, const PlanFacts& facts) {
  json::array specs;
  for (const SpecGroup& group : facts.inventory.specs) {
    specs.push_back({{"spec", describe(group.spec)},
                     {"tensors", group.tensors},
                     {"weights", group.weights},
                     {"source_bytes", group.source_bytes},
                     {"output_bytes", group.output_bytes}});
  }
  json::array kept;
  for (const KeptGroup& group : facts.inventory.kept) {
    kept.push_back({{"reason", describe(group.reason)}, {"tensors", group.tensors}, {"bytes", group.bytes}});
  }
  json::array warnings(facts.warnings.begin(), facts.warnings.end());
  json::object out{
      {"format", "halfquad-plan"},
      {"version", 1},
      {"source_bytes", facts.inventory.source_bytes},
      {"output_bytes", job.plan.output_bytes},
      {"read_bytes", job.plan.read_bytes},
      {"quantized_weights", job.plan.weights},
      {"kept_bytes", facts.inventory.kept_bytes},
      {"bits_per_weight", facts.inventory.bits_per_weight()},
      {"files", job.layout.files().size()},
      {"pieces", job.plan.items.size()},
      {"threads", facts.threads},
      {"memory_bytes", facts.memory_bytes},
      {"minimum_memory_bytes", minimum_memory(job.plan)},
      {"comfortable_memory_bytes", comfortable_memory(job.plan, facts.threads)},
      {"specs", std::move(specs)},
      {"kept", std::move(kept)},
      {"warnings", std::move(warnings)},
  };
  out["card"] = card_json(facts.fit);
  out["architecture"] = is_utf8(facts.fit.model.architecture) ? facts.fit.model.architecture : std::string();
  add_fit_json(job, facts, out);
  add_times_json(job, facts, out);
  if (facts.ranks) out["ranks"] = ranks_json(*facts.ranks);
  if (facts.slurm) out["slurm"] = slurm_json(*facts.slurm);
  return out;
}

void print_plan(const Context& context, const PlanOptions& options, const std::filesystem::path& model) {
  Log log(options.machine.level(), options.machine.format());
  PlanFacts facts;
  SpecOptions spec = options.spec;
  if (!options.fit.fit.empty()) {
    facts.fitted = fit_spec(context, open_source(context.fs, model), spec, options.fit, options.machine.thread_count());
    spec = with_choice(std::move(spec), facts.fitted->choice);
  }
  if (facts.fitted || spec.has_target()) {
    facts.command = quantize_command(options.model.empty() ? "MODEL" : options.model, spec);
  }
  facts.measures = would_measure(context, model, spec);
  const Job job = prepare_job(context, model, facts.measures ? to_be_measured(spec) : spec, options.machine);
  facts.inventory = take_inventory(job.checkpoint, job.decisions, job.layout);
  facts.rates = rates_of(context, options, job);
  facts.threads = options.machine.thread_count();
  facts.memory_bytes = options.machine.memory_bytes();
  facts.fit = card_fit(options.fit, model_facts(job.checkpoint), job.layout.data_bytes());
  if (options.ranks.any()) {
    facts.ranks = plan_ranks(context.fs, options.ranks, job, facts.rates);
    facts.ranks->measures = facts.measures;
  } else {
    facts.alternatives = alternatives_of(context, job.checkpoint, spec,
                                         job.chosen ? job.chosen->sized.choice : SpecChoice{}, facts.threads);
  }
  if (options.slurm.wanted) facts.slurm = slurm_request(options.slurm, job, *facts.ranks, options.machine.memory);
  assume_rates(facts);
  facts.nodes = nodes_bounds(job.plan, facts.rates);
  facts.warnings = job_warnings(job);
  for (const std::string& warning : facts.warnings) log.warn(warning);
  context.out << (options.as_json ? pretty_json(plan_json(job, facts))
                                  : plan_text(options.preset.empty() ? options.model : options.preset, job, facts));
}

void run_plan_command(const Context& context, const PlanOptions& options) {
  HALFQUAD_REQUIRE(options.model.empty() != options.preset.empty(), kUsage,
                   "give a MODEL, or --preset NAME to plan for a known model without its files");
  HALFQUAD_REQUIRE(options.ranks.any() || (options.ranks.rates.empty() && options.ranks.stragglers.empty() &&
                                           options.ranks.items_held == 0 && !options.ranks.nodes),
                   kUsage, "--nodes, --rates, --stragglers and --items-held need --ranks or --simulate");
  if (options.preset.empty()) return print_plan(context, options, options.model);
  SynthOptions synth;
  synth.preset = options.preset;
  const std::unique_ptr<FileSystem> files = preset_files(context.fs, synth_model(synth));
  print_plan({*files, context.stop, context.out, context.err, context.environment, context.log_format}, options,
             kPresetDirectory);
}

}  // namespace

Command add_plan(CLI::App& root, const Context& context) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* app = root.add_subcommand("plan", "Show what quantize would do: sizes, memory, time; writes nothing");
  app->footer(kFooter);
  app->add_option("MODEL", options->model,
                  "Checkpoint: a Hugging Face directory, or one .safetensors, PyTorch or .gguf file")
      ->type_name("");
  std::string presets;
  for (const std::string_view preset : synth_presets()) presets += (presets.empty() ? "" : ", ") + std::string(preset);
  app->add_option("--preset", options->preset, "Instead of MODEL: " + presets)->type_name("NAME");
  app->add_flag("--json", options->as_json, "Print JSON");
  app->add_flag("--measure", options->measure, "Measure reading and solving for some seconds first")
      ->group("Prediction");
  app->add_option("--read-rate", options->read_rate, "Bytes per second")->type_name("SIZE")->group("Prediction");
  app->add_option("--write-rate", options->write_rate, "Bytes per second")->type_name("SIZE")->group("Prediction");
  app->add_option("--solve-rate", options->solve_rate, "Weights per second per core, such as 400MB for 400 million")
      ->type_name("COUNT")
      ->group("Prediction");
  add_fit_options(*app, options->fit);
  add_rank_options(*app, options->ranks);
  add_slurm_options(*app, options->slurm);
  add_spec_options(*app, options->spec);
  add_thread_option(*app, options->machine);
  add_memory_options(*app, options->machine);
  add_solver_options(*app, options->machine);
  add_message_options(*app, options->machine);
  return {app, [&context, options] {
            settle_slurm_options(options->slurm, options->ranks);
            options->ranks.cores_per_rank = options->machine.threads;
            run_plan_command(context, *options);
          }};
}

}  // namespace halfquad
