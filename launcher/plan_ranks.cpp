#include "launcher/plan_ranks.h"

#include <algorithm>
#include <charconv>
#include <string_view>
#include <utility>

#include <CLI/CLI.hpp>
#include <boost/json/array.hpp>
#include <fmt/format.h>

#include "launcher/help_formatter.h"
#include "launcher/measured_importance.h"
#include "launcher/summary.h"
#include "launcher/table.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr char kDefaultRanks[] = "1,4,16,64,256,1024";
constexpr int kRanksPerNode = 8;  // unless --nodes says otherwise
constexpr std::uint64_t kMaxRatesBytes = 1 << 20;

template <class Number>
std::optional<Number> number_from(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return {};
  return number;
}

std::vector<int> parse_ranks(const std::string& text) {
  std::vector<int> ranks;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::optional<int> count = number_from<int>(std::string_view(text).substr(begin, end - begin));
    HALFQUAD_REQUIRE(
        count && *count >= 1 && *count <= kMaxRanks, kUsage,
        fmt::format("--ranks {}: give numbers from 1 to {}, such as 64 or 16,64,256", quoted(text), kMaxRanks));
    ranks.push_back(*count);
    begin = end + 1;
  }
  return ranks;
}

Stragglers parse_stragglers(const std::string& text) {
  if (text.empty()) return {};
  const std::size_t colon = text.find(':');
  const std::string_view whole = text;
  const auto fraction = number_from<double>(whole.substr(0, colon));
  const auto slowdown = colon == std::string::npos ? std::nullopt : number_from<double>(whole.substr(colon + 1));
  HALFQUAD_REQUIRE(fraction && slowdown && *fraction >= 0 && *fraction <= 1 && *slowdown >= 1 && *slowdown <= 1e6,
                   kUsage,
                   fmt::format("--stragglers {}: give a fraction from 0 to 1 and how many times slower, such as 0.02:2",
                               quoted(text)));
  return {*fraction, *slowdown};
}

ClusterRates cluster_rates(FileSystem& fs, const RankOptions& options, const Rates& known) {
  ClusterRates rates;
  if (!options.rates.empty()) {
    rates = parse_cluster_rates(read_text(fs, options.rates, kMaxRatesBytes), quoted(options.rates));
  }
  bool changed = false;
  const auto prefer = [&changed](double& rate, double better) {
    changed = changed || better > 0;
    if (better > 0) rate = better;
  };
  prefer(rates.read_bytes_per_s_per_node, known.read_bytes_per_s);
  prefer(rates.write_bytes_per_s_per_node, known.write_bytes_per_s);
  prefer(rates.weights_per_s_per_core, known.weights_per_s_per_core);
  rates.cores_per_rank = options.cores_per_rank.value_or(rates.cores_per_rank);
  if (changed) rates.origin += "; some given or measured here";
  return rates;
}

std::string rate_text(double rate, double unit, std::string_view name) {
  return rate > 0 ? fmt::format("{:.2f} {}", rate / unit, name) : std::string("without limit");
}

std::string rates_text(const ClusterRates& rates) {
  return fmt::format("a node reads {}, writes {}; the file system gives {}; a core solves {} ({})",
                     rate_text(rates.read_bytes_per_s_per_node, 1e9, "GB/s"),
                     rate_text(rates.write_bytes_per_s_per_node, 1e9, "GB/s"),
                     rate_text(rates.file_system_bytes_per_s, 1e9, "GB/s"),
                     rate_text(rates.weights_per_s_per_core, 1e6, "M weights/s"), rates.origin);
}

/// "smallest / median / largest" of one number of all ranks.
template <class Member, class Shown>
std::string spread_text(const std::vector<RankLoad>& loads, Member member, Shown shown) {
  std::vector<std::uint64_t> values;
  for (const RankLoad& load : loads) values.push_back(load.*member);
  std::ranges::sort(values);
  return fmt::format("{} / {} / {}", shown(values.front()), shown(values[values.size() / 2]), shown(values.back()));
}

std::string stragglers_text(const Stragglers& stragglers) {
  if (stragglers.fraction <= 0 || stragglers.slowdown <= 1) return "none";
  return fmt::format("{:g} % of the ranks, {:g} times slower", 100 * stragglers.fraction, stragglers.slowdown);
}

std::string table_text(const RankPlan& plan) {
  Table facts("ll", {});
  facts.add_row({"rates", rates_text(plan.rates)});
  facts.add_row({"cores", fmt::format("{} a rank", plan.rates.cores_per_rank)});
  facts.add_row({"stragglers", stragglers_text(plan.stragglers)});
  Table table("rrrlrrrr", {"ranks", "nodes", "bound s", "by", "dynamic s", "of bound", "static s", "of bound"});
  for (const RankPlan::Row& row : plan.rows) {
    table.add_row({fmt::format("{}", row.topology.ranks), fmt::format("{}", row.topology.nodes),
                   fmt::format("{:.2f}", row.dynamic.bound.seconds), std::string(row.dynamic.bound.name),
                   fmt::format("{:.2f}", row.dynamic.seconds), fmt::format("{:.1f} %", 100 * row.dynamic.efficiency()),
                   fmt::format("{:.2f}", row.fixed.seconds), fmt::format("{:.1f} %", 100 * row.fixed.efficiency())});
  }
  return facts.text(2) + "\n" + table.text(2);
}

json::object bound_json(const Bound& bound) {
  return {{"seconds", bound.seconds},
          {"by", bound.name},
          {"read_seconds", bound.read_seconds},
          {"write_seconds", bound.write_seconds},
          {"file_system_seconds", bound.file_system_seconds},
          {"solve_seconds", bound.solve_seconds}};
}

json::object simulation_json(const Simulation& simulation) {
  return {{"seconds", simulation.seconds}, {"efficiency", simulation.efficiency()}, {"handed_out", simulation.pieces}};
}

json::object row_json(const RankPlan::Row& row) {
  return {{"ranks", row.topology.ranks},
          {"nodes", row.topology.nodes},
          {"bound", bound_json(row.dynamic.bound)},
          {"dynamic", simulation_json(row.dynamic)},
          {"static", simulation_json(row.fixed)}};
}

}  // namespace

void add_rank_options(CLI::App& app, RankOptions& options) {
  constexpr char kGroup[] = "Many ranks";
  app.add_option("--ranks", options.ranks, "Plan for N ranks; with --simulate a list such as 16,64,256")
      ->type_name("N")
      ->group(kGroup);
  app.add_option("--nodes", options.nodes, "Nodes the ranks are on (default: one for each 8 ranks)")
      ->type_name("N")
      ->group(kGroup);
  app.add_option("--rates", options.rates, "What nodes can do, a JSON file as below")->type_name("FILE")->group(kGroup);
  app.add_flag("--simulate", options.simulate, "Play the hand-out of work through and print times and efficiency")
      ->group(kGroup);
  app.add_option("--stragglers", options.stragglers, "Ranks that are slow: 0.02:2 for 2 % at half speed")
      ->type_name("F:S")
      ->group(kGroup);
  app.add_option("--items-held", options.items_held, "Most tiles a simulated rank holds (default: as quantize does)")
      ->check(quiet(CLI::Range(1, 100000)))
      ->type_name("N")
      ->group(kGroup);
  app.add_option("--seed", options.seed, "Which ranks are slow")->type_name("N")->group(kGroup);
}

RankPlan plan_ranks(FileSystem& fs, const RankOptions& options, const Job& job, const Rates& known) {
  const std::vector<int> counts = parse_ranks(options.ranks.empty() ? kDefaultRanks : options.ranks);
  HALFQUAD_REQUIRE(options.simulate || counts.size() == 1, kUsage, "several rank counts need --simulate");
  HALFQUAD_REQUIRE(!options.nodes || counts.size() == 1, kUsage, "--nodes needs one rank count in --ranks");
  RankPlan plan;
  plan.rates = cluster_rates(fs, options, known);
  plan.stragglers = parse_stragglers(options.stragglers);
  plan.is_table = options.simulate;
  plan.memory_bytes = comfortable_memory(job.plan, plan.rates.cores_per_rank);
  const std::vector<std::uint64_t> weights = item_weights(job.checkpoint, job.layout, job.plan);
  for (const int ranks : counts) {
    SimulationOptions simulation;
    simulation.topology = {ranks, options.nodes.value_or((ranks + kRanksPerNode - 1) / kRanksPerNode)};
    simulation.rates = plan.rates;
    simulation.stragglers = plan.stragglers;
    simulation.seed = options.seed;
    simulation.items_held = options.items_held;
    RankPlan::Row row{simulation.topology, simulate(job.plan, weights, simulation), {}};
    simulation.schedule = Schedule::kStatic;
    row.fixed = simulate(job.plan, weights, simulation);
    plan.rows.push_back(std::move(row));
  }
  if (!plan.is_table) plan.loads = rank_loads(job.plan, weights, counts.front());
  return plan;
}

double measuring_seconds(const RankPlan& plan, const RankPlan::Row& row) noexcept {
  const Bound& bound = row.dynamic.bound;
  return plan.measures ? measuring_seconds(bound.read_seconds, bound.solve_seconds) : 0;
}

std::string measuring_text(double seconds) {
  return fmt::format("about {:.1f} s measure the inputs of the layers (--importance weights spares that)", seconds);
}

std::string ranks_text(const RankPlan& plan) {
  if (plan.is_table) return table_text(plan);
  const RankPlan::Row& row = plan.rows.front();
  const Bound& bound = row.dynamic.bound;
  const auto plain = [](std::uint64_t value) { return fmt::format("{}", value); };
  Table table("ll", {});
  table.add_row(
      {"ranks", fmt::format("{} on {} nodes, {} cores a rank; {} of memory keep a rank busy", row.topology.ranks,
                            row.topology.nodes, plan.rates.cores_per_rank, human_bytes(plan.memory_bytes))});
  table.add_row({"share", fmt::format("{} pieces; {} to read, {} to write, {} weights; {} tensors cut "
                                      "(least / median / most of a rank)",
                                      spread_text(plan.loads, &RankLoad::items, plain),
                                      spread_text(plan.loads, &RankLoad::read_bytes, human_bytes),
                                      spread_text(plan.loads, &RankLoad::output_bytes, human_bytes),
                                      spread_text(plan.loads, &RankLoad::weights, human_count),
                                      spread_text(plan.loads, &RankLoad::tensors_cut, plain))});
  table.add_row({"rates", rates_text(plan.rates)});
  table.add_row({"time", fmt::format("about {:.2f} s, bound by {}; {:.1f} % of what the bound of {:.2f} s allows "
                                     "(reading {:.2f} s, solving {:.2f} s, writing {:.2f} s)",
                                     row.dynamic.seconds, bound.name, 100 * row.dynamic.efficiency(), bound.seconds,
                                     bound.read_seconds, bound.solve_seconds, bound.write_seconds)});
  if (plan.measures) table.add_row({"before that", measuring_text(measuring_seconds(plan, row))});
  table.add_row({"static", fmt::format("about {:.2f} s with --schedule static", row.fixed.seconds)});
  if (plan.stragglers.fraction > 0) table.add_row({"stragglers", stragglers_text(plan.stragglers)});
  return table.text(2);
}

json::object ranks_json(const RankPlan& plan) {
  json::object rates{{"origin", plan.rates.origin},
                     {"read_gb_per_s_per_node", plan.rates.read_bytes_per_s_per_node / 1e9},
                     {"write_gb_per_s_per_node", plan.rates.write_bytes_per_s_per_node / 1e9},
                     {"file_system_gb_per_s", plan.rates.file_system_bytes_per_s / 1e9},
                     {"mweights_per_s_per_core", plan.rates.weights_per_s_per_core / 1e6},
                     {"cores_per_rank", plan.rates.cores_per_rank}};
  json::array rows;
  for (const RankPlan::Row& row : plan.rows) rows.push_back(row_json(row));
  json::object out{{"rates", std::move(rates)},
                   {"stragglers", {{"fraction", plan.stragglers.fraction}, {"slowdown", plan.stragglers.slowdown}}},
                   {"memory_bytes_per_rank", plan.memory_bytes},
                   {"simulations", std::move(rows)}};
  if (plan.is_table) return out;
  out["measuring_seconds"] = measuring_seconds(plan, plan.rows.front());
  json::array shares;
  for (const RankLoad& load : plan.loads) {
    shares.push_back({{"pieces", load.items},
                      {"source_bytes", load.read_bytes},
                      {"output_bytes", load.output_bytes},
                      {"weights", load.weights},
                      {"tensors_cut", load.tensors_cut}});
  }
  out["shares"] = std::move(shares);
  return out;
}

}  // namespace halfquad
