#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <CLI/App.hpp>
#include <boost/json/object.hpp>

#include "io/file_system.h"
#include "launcher/job.h"
#include "sharding/simulate.h"

namespace halfquad {

/// Options about a job over many ranks, as typed.
struct RankOptions {
  std::string ranks;
  std::optional<int> nodes;
  std::optional<int> cores_per_rank = {};  ///< As --threads says; it goes before the rates'.
  std::string rates;
  bool simulate = false;
  std::string stragglers;
  int items_held = 0;
  std::uint64_t seed = 1;

  [[nodiscard]] bool any() const noexcept { return simulate || !ranks.empty(); }
};
void add_rank_options(CLI::App& app, RankOptions& options);

/// What `plan` says about a job over many ranks.
struct RankPlan {
  struct Row {
    Topology topology;
    Simulation dynamic, fixed;
  };
  ClusterRates rates;
  Stragglers stragglers;
  bool is_table = false;  ///< --simulate: rows for several topologies; else one row and its loads.
  std::vector<Row> rows;
  std::vector<RankLoad> loads;  ///< Of each rank.
  std::uint64_t memory_bytes = 0;
  bool measures = false;  ///< The inputs of the layers, before the job; no part of the rows.
};

/// About how long a job over these ranks measures before its work.
[[nodiscard]] double measuring_seconds(const RankPlan& plan, const RankPlan::Row& row) noexcept;
/// That as a person reads it.
[[nodiscard]] std::string measuring_text(double seconds);

/// `known`: rates measured or given one by one; they go before the file's.
[[nodiscard]] RankPlan plan_ranks(FileSystem& fs, const RankOptions& options, const Job& job, const Rates& known);

[[nodiscard]] std::string ranks_text(const RankPlan& plan);
[[nodiscard]] boost::json::object ranks_json(const RankPlan& plan);

}  // namespace halfquad
