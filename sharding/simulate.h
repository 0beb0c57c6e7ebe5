#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "sharding/cost_model.h"

namespace halfquad {

/// Ranks whose cores are slow.
struct Stragglers {
  double fraction = 0;  ///< Of the ranks, rounded up; which ones, the seed says.
  double slowdown = 1;  ///< Times longer.
};

struct SimulationOptions {
  Topology topology{};
  ClusterRates rates{};
  Schedule schedule = Schedule::kDynamic;
  Stragglers stragglers{};
  double message_seconds = 100e-6;  ///< One way; a request for work takes two.
  double answer_seconds = 5e-6;     ///< Of the handing-out rank, one request after the other.
  std::uint64_t seed = 1;
  /// Most items a rank holds, read or being read and not solved; zero: as many as its pipeline does.
  int items_held = 0;
};

struct Simulation {
  double seconds = 0;
  Bound bound;
  std::size_t pieces = 0;  ///< Handed out.
  [[nodiscard]] double efficiency() const noexcept { return seconds > 0 ? bound.seconds / seconds : 1; }
};

/// Plays a job through, event by event, with the real hand-out:
/// - a rank asks for its next piece when it may read on and has nothing to read;
/// - every core solves a tile at a time; tiles of a tensor are written when its last one is solved, whoever solves it;
/// - the disks of a node, and the file system, serve reads and writes one after the other in the order they are asked.
/// Deterministic.
[[nodiscard]] Simulation simulate(const Plan& plan, const std::vector<std::uint64_t>& weights,
                                  const SimulationOptions& options);

}  // namespace halfquad
