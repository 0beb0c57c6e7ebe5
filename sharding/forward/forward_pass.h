#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/file_system.h"
#include "kernels/fused_gemm.h"
#include "runtime/progress.h"
#include "runtime/stop_flag.h"
#include "sharding/forward/decoder_model.h"
#include "sharding/forward/rank_exchange.h"
#include "sharding/forward/token_batch.h"

namespace halfquad {

/// How to run the pass; of these only zero_nonfinite may change what comes out.
struct ForwardOptions {
  int threads = 1;
  std::uint64_t memory_bytes = 2ULL << 30;  ///< Of activations and of what threads read into.
  ReadMode read_mode = ReadMode::kAuto;
  FusedMultiply multiply = nullptr;
  /// Run weights that are NaN or infinite as zeros, instead of refusing them.
  bool zero_nonfinite = false;
};

/// What was measured of one linear layer.
struct InputPower {
  std::string module;
  std::vector<float> mean_squares;  ///< Of each input, over the tokens that reach the layer.
};

/// What was measured of a model, in the order of its layers.
struct ModelPower {
  std::vector<InputPower> modules;
  std::int64_t experts = 0;
  /// Experts that the router sent fewer tokens than RoutingKind::fewest_tokens, so that others, which come next in
  /// their favour, were measured too.
  std::int64_t filled_experts = 0;
};

/// The sizes of what a pass reads.
[[nodiscard]] ProgressTotals forward_totals(const DecoderModel& model);

/// Runs the sequences through the model, layer by layer, reading every matrix once, and measures the inputs of all
/// linear layers. Collective: all ranks get the result, the same bytes for any number of ranks and threads and for any
/// SIMD target. Throws kUsage for sequences that are too long for what is known of the model's attention,
/// kOutOfMemory, kBadInput for weights or activations that are not finite, what reading throws, and what
/// RankExchange does.
[[nodiscard]] ModelPower measure_inputs(FileSystem& fs, const Checkpoint& checkpoint, const DecoderModel& model,
                                        const TokenBatch& batch, const ForwardOptions& options, RankExchange& exchange,
                                        ProgressCounters& progress, const StopFlag& stop);

}  // namespace halfquad
