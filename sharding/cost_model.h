#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint.h"
#include "sharding/work_queue.h"

namespace halfquad {

/// What the nodes of a cluster can do. A rate of zero: without limit.
struct ClusterRates {
  double read_bytes_per_s_per_node = 5e9;
  double write_bytes_per_s_per_node = 2.5e9;
  double file_system_bytes_per_s = 0;     ///< Of all nodes together, reading and writing.
  double weights_per_s_per_core = 200e6;  ///< Of als, the default solver, on a core with AVX-512.
  int cores_per_rank = 8;
  std::string origin = "assumed";  ///< Where the rates are from, for people.
};

/// Reads `--rates`: an object of read_gb_per_s_per_node, write_gb_per_s_per_node, file_system_gb_per_s,
/// mweights_per_s_per_core, cores_per_rank; what is missing is assumed, and origin says so. Throws kBadInput naming
/// `what` and the key.
[[nodiscard]] ClusterRates parse_cluster_rates(std::string_view text, std::string_view what);

/// Ranks lie on nodes in blocks of about equal size.
struct Topology {
  int ranks = 1;
  int nodes = 1;
  [[nodiscard]] int node_of(int rank) const noexcept;
};
inline constexpr int kMaxRanks = 65536;
/// Throws kUsage for a topology that cannot be.
void require_valid(const Topology& topology);

/// Weights every item of the plan solves; zero for copies.
[[nodiscard]] std::vector<std::uint64_t> item_weights(const Checkpoint& checkpoint, const OutputLayout& layout,
                                                      const Plan& plan);

/// What one item takes of a rank's stages: its node's disks when no other uses them, one core.
struct ItemSeconds {
  double read = 0, write = 0, solve = 0;
};
[[nodiscard]] ItemSeconds seconds_of(const WorkItem& item, std::uint64_t weights, const ClusterRates& rates) noexcept;

/// The least time a job can take: its stages overlap, so the slowest one binds.
struct Bound {
  double seconds = 0;
  double read_seconds = 0, write_seconds = 0, file_system_seconds = 0, solve_seconds = 0;
  std::string_view name;  ///< "reading", "writing", "the file system" or "solving".
};
/// `cores`: all ranks' together, a slow one counting for less.
[[nodiscard]] Bound bound_of(const Plan& plan, const ClusterRates& rates, const Topology& topology, double cores);

/// What a rank owns before any helping.
struct RankLoad {
  std::size_t items = 0;
  std::uint64_t read_bytes = 0, output_bytes = 0, weights = 0;
  std::size_t tensors_cut = 0;  ///< Of which other ranks own items too.
};
[[nodiscard]] std::vector<RankLoad> rank_loads(const Plan& plan, const std::vector<std::uint64_t>& weights, int ranks);

}  // namespace halfquad
