#include "launcher/plan_slurm.h"

#include <algorithm>
#include <cmath>

#include <CLI/CLI.hpp>
#include <boost/json/array.hpp>
#include <fmt/format.h>

#include "launcher/help_formatter.h"
#include "launcher/options.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kGiB = 1 << 30;

constexpr int kHostRanksPerNode = 4;  // of nodes without GPUs
constexpr int kMostGpusPerNode = 64;

// A budget beyond this is not asked for unless the plan needs it: the job would wait longer for nodes than it would
// win.
constexpr std::uint64_t kComfortEnough = 8 * kGiB;
constexpr std::uint64_t kBudgetStep = 256 * kMiB;
// Beside the budget: the program with MPI, and a driver's own memory for each GPU.
constexpr std::uint64_t kBesideBudget = 512 * kMiB;
constexpr std::uint64_t kBesideGpu = kGiB;

// Shared file systems are slower on some days, and the first minutes go to starting and to reading headers.
constexpr double kTimeMargin = 2;
constexpr int kStartMinutes = 10;
constexpr int kMinutesStep = 5;

constexpr int kSignalSeconds = 120;  // ahead of the time limit; Slurm may be a minute early

std::uint64_t round_up(std::uint64_t value, std::uint64_t step) { return (value + step - 1) / step * step; }

std::uint64_t budget_of(const Job& job, const RankPlan& plan, const std::string& memory) {
  if (!memory.empty()) {
    const std::uint64_t given = parse_size_option(memory, "--memory");
    require_memory(job.plan, given);
    return given;
  }
  return round_up(std::max(minimum_memory(job.plan), std::min(plan.memory_bytes, kComfortEnough)), kBudgetStep);
}

std::vector<std::string> directives(const SlurmRequest& request) {
  std::vector<std::string> lines{fmt::format("--nodes={}", request.nodes)};
  if (request.ranks % request.nodes != 0) lines.push_back(fmt::format("--ntasks={}", request.ranks));
  lines.push_back(fmt::format("--ntasks-per-node={}", request.ranks_per_node()));
  lines.push_back(fmt::format("--cpus-per-task={}", request.cores_per_rank));
  if (request.gpus_per_node > 0) lines.push_back(fmt::format("--gpus-per-node={}", request.gpus_per_node));
  lines.push_back(fmt::format("--mem={}G", request.node_gib));
  lines.push_back(fmt::format("--time={:02}:{:02}:00", request.minutes / 60, request.minutes % 60));
  lines.push_back(fmt::format("--signal=B:USR1@{}", kSignalSeconds));
  lines.emplace_back("--requeue");
  lines.emplace_back("--open-mode=append");
  return lines;
}

std::string_view script_of(const SlurmRequest& request) {
  if (request.gpus_per_node == 0) return "cpu.sbatch";
  return request.nodes == 1 ? "one-node.sbatch" : "many-nodes.sbatch";
}

std::string memory_text(const SlurmRequest& request) { return fmt::format("{}MiB", request.memory_bytes / kMiB); }

}  // namespace

void add_slurm_options(CLI::App& app, SlurmOptions& options) {
  constexpr char kGroup[] = "Many ranks";
  app.add_flag("--slurm", options.wanted,
               "Print what to ask of Slurm for the job, with margin, as #SBATCH lines (default: one node)")
      ->group(kGroup);
  app.add_option("--gpus-per-node", options.gpus_per_node,
                 "With --slurm: GPUs to ask for on each node, a rank for each")
      ->check(quiet(CLI::Range(1, kMostGpusPerNode)))
      ->type_name("N")
      ->group(kGroup);
}

void settle_slurm_options(const SlurmOptions& options, RankOptions& ranks) {
  HALFQUAD_REQUIRE(options.wanted || !options.gpus_per_node, kUsage, "--gpus-per-node needs --slurm");
  if (!options.wanted) return;
  HALFQUAD_REQUIRE(!ranks.simulate, kUsage,
                   "--slurm asks for one job: give --ranks and --nodes instead of --simulate, which compares several");
  if (!ranks.nodes && ranks.ranks.empty()) ranks.nodes = 1;
  if (!ranks.ranks.empty()) return;
  HALFQUAD_REQUIRE(*ranks.nodes >= 1 && *ranks.nodes <= kMaxRanks / kMostGpusPerNode, kUsage,
                   fmt::format("--nodes {}: give a number from 1 to {}", *ranks.nodes, kMaxRanks / kMostGpusPerNode));
  ranks.ranks = fmt::format("{}", *ranks.nodes * options.gpus_per_node.value_or(kHostRanksPerNode));
}

SlurmRequest slurm_request(const SlurmOptions& options, const Job& job, const RankPlan& plan,
                           const std::string& memory) {
  const RankPlan::Row& row = plan.rows.front();
  SlurmRequest request;
  request.nodes = row.topology.nodes;
  request.ranks = row.topology.ranks;
  request.cores_per_rank = plan.rates.cores_per_rank;
  request.gpus_per_node = options.gpus_per_node.value_or(0);
  request.memory_bytes = budget_of(job, plan, memory);
  const std::uint64_t node_bytes =
      static_cast<std::uint64_t>(request.ranks_per_node()) * (request.memory_bytes + kBesideBudget) +
      static_cast<std::uint64_t>(request.gpus_per_node) * kBesideGpu;
  request.node_gib = round_up(node_bytes, kGiB) / kGiB;
  request.predicted_seconds = row.dynamic.seconds + measuring_seconds(plan, row);
  const double minutes = kTimeMargin * request.predicted_seconds / 60 + kStartMinutes;
  request.minutes = static_cast<int>(std::ceil(minutes / kMinutesStep)) * kMinutesStep;
  request.bound = row.dynamic.bound.name;
  request.rates_from = plan.rates.origin;
  return request;
}

std::string slurm_text(const SlurmRequest& request) {
  std::string text = fmt::format(
      "# Predicted: {:.0f} s on {} ranks of {} cores{}, bound by {} (rates: {}). Asked for: {:.0f} times that and {} "
      "minutes.\n"
      "# A shorter --time works, too: the job stops in time, is requeued and goes on until it is done.\n",
      std::ceil(request.predicted_seconds), request.ranks, request.cores_per_rank,
      request.gpus_per_node > 0 ? " without what their GPUs add" : "", request.bound, request.rates_from, kTimeMargin,
      kStartMinutes);
  for (const std::string& line : directives(request)) text += "#SBATCH " + line + "\n";
  return text + fmt::format("# Submit: sbatch [THESE OPTIONS] cluster/slurm/{} quantize MODEL OUT --memory {}\n",
                            script_of(request), memory_text(request));
}

json::object slurm_json(const SlurmRequest& request) {
  json::array lines;
  for (const std::string& line : directives(request)) lines.emplace_back(line);
  return {{"sbatch", std::move(lines)},
          {"script", script_of(request)},
          {"memory", memory_text(request)},
          {"predicted_seconds", request.predicted_seconds}};
}

}  // namespace halfquad
