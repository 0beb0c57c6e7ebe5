#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "launcher/context.h"
#include "launcher/job_monitor.h"
#include "launcher/options.h"
#include "launcher/run_quantize.h"
#include "runtime/communicator.h"
#include "sharding/forward/token_batch.h"

namespace halfquad {

/// What a job that measures its inputs itself runs: as good for 4 bit models as four and sixteen times as many tokens
/// (tests/bench/quality).
inline constexpr RandomTokens kJobTokens = {.tokens = 256, .length = 8, .seed = 0};

/// Whether measure_for_job() would measure anything. Throws kIo and, for random, what bind_decoder() does.
[[nodiscard]] bool would_measure(const Context& context, const std::filesystem::path& model, const SpecOptions& spec);
/// The options of a job before it has measured what it will.
[[nodiscard]] SpecOptions to_be_measured(SpecOptions spec);
/// How long that would take about, from the least times of reading a job's weights and of solving them by als: it reads
/// them all, too, and was seen to take a quarter more computing than als.
[[nodiscard]] double measuring_seconds(double read_seconds, double solve_seconds) noexcept;

/// For a job whose --importance is auto or random: measures the inputs of the model's layers with kJobTokens, as
/// `halfquad importance` does, or takes what an interrupted run of the same job has left in OUT.partial. Nothing is
/// measured when no layer would be weighted by it, when ranks were told different things, or, for auto, when the model
/// is of no known kind: the result has no file then. Collective, also when nothing is measured, and over when it
/// returns; all ranks get the same. Throws what measure_inputs() does, kUsage for an OUT that exists, kIo, and for
/// random what bind_decoder() does; the other ranks have been told then, and throw too.
[[nodiscard]] std::shared_ptr<const MeasuredImportance> measure_for_job(const Context& context,
                                                                        const QuantizeOptions& options,
                                                                        Communicator& communicator,
                                                                        JobMonitor* monitor);

}  // namespace halfquad
