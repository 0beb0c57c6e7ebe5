#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/stop_flag.h"
#include "sharding/forward/decoder_config.h"
#include "sharding/forward/panels.h"

namespace halfquad {

/// Threads that share the work on activations.
struct Workers {
  int threads = 1;
  const StopFlag& stop;
};

/// RMS norms as a family has them.
struct NormKind {
  double epsilon = 1e-6;
  bool adds_one = false;
};

/// Norm of each run of weights.size() features of each token, in double; `out` may be `in`.
void rms_norm(const Workers& workers, const Panels& in, std::span<const float> weights, const NormKind& kind,
              const Panels& out);

/// to += from
void add(const Workers& workers, const Panels& to, const Panels& from);

/// count values: up[i] = function(gate[i]) * up[i].
void apply_gate(GateFunction function, const float* gate, float* up, std::int64_t count);

/// Sines and cosines of every pair of rotated elements at every position, made once.
class RopeTable {
 public:
  RopeTable(const RopeTurns& turns, std::int64_t positions);
  /// Turns the heads of `size` features each in place; pairs are an element and the one half the turned ones later.
  void apply(const Workers& workers, const Panels& heads, std::int64_t size,
             std::span<const std::int64_t> positions) const;

 private:
  std::int64_t pairs_ = 0;
  std::vector<float> sin_, cos_;  // [positions, pairs]
};

}  // namespace halfquad
