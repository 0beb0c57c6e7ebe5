#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <CLI/App.hpp>
#include <boost/json/object.hpp>

#include "launcher/job.h"
#include "launcher/plan_ranks.h"

namespace halfquad {

/// Options about a job under Slurm, as typed.
struct SlurmOptions {
  bool wanted = false;
  std::optional<int> gpus_per_node;
};
void add_slurm_options(CLI::App& app, SlurmOptions& options);

/// Throws kUsage where the options contradict each other; gives the job as many ranks as fit its nodes and GPUs, unless
/// it was told how many.
void settle_slurm_options(const SlurmOptions& options, RankOptions& ranks);

/// What to ask of Slurm for a job, with margin.
struct SlurmRequest {
  int nodes = 1;
  int ranks = 1;
  int cores_per_rank = 1;
  int gpus_per_node = 0;
  std::uint64_t memory_bytes = 0;  ///< The budget of a rank, for --memory.
  std::uint64_t node_gib = 0;      ///< Memory of a node, in GiB.
  int minutes = 0;
  double predicted_seconds = 0;
  std::string bound;       ///< What the time is bound by.
  std::string rates_from;  ///< Where the rates behind it are from.

  [[nodiscard]] int ranks_per_node() const noexcept { return (ranks + nodes - 1) / nodes; }
};
/// `plan`: of one topology. `memory`: --memory as typed, or nothing.
[[nodiscard]] SlurmRequest slurm_request(const SlurmOptions& options, const Job& job, const RankPlan& plan,
                                         const std::string& memory);

/// Lines for the head of a batch script, comments among them.
[[nodiscard]] std::string slurm_text(const SlurmRequest& request);
[[nodiscard]] boost::json::object slurm_json(const SlurmRequest& request);

}  // namespace halfquad
