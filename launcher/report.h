#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <boost/json/object.hpp>

#include "launcher/job.h"
#include "sharding/job_leader.h"
#include "sharding/runner.h"

namespace halfquad {

/// What a finished job measured about itself.
struct RunFacts {
  double seconds = 0;
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_written = 0;
  std::uint64_t output_bytes = 0;  ///< The finished weight files with their headers.
  std::uint64_t peak_resident_bytes = 0;
  std::uint64_t memory_bytes = 0;
  int threads = 0;  ///< Of one rank.
  std::string solver;
  std::vector<RankFacts> ranks;
  AssemblyFacts assembly;
  ResumeFacts resume;
};

/// Errors of one layer, or of all of them together, as people read them. Nothing: not defined (an error of zero has no
/// SQNR, an error on an all-zero tensor no relative error).
struct ErrorFigures {
  double mean_abs = 0;
  std::optional<double> relative;  ///< sqrt(sum (w - ŵ)² / sum w²)
  std::optional<double> weighted;  ///< sqrt(sum h (w - ŵ)² / sum h w²) of the layers whose columns are weighed.
  std::optional<double> sqnr_db;   ///< 10 log10(sum w² / sum (w - ŵ)²)
  double max_abs = 0;
};
[[nodiscard]] ErrorFigures error_figures(const ErrorSums& sums, std::uint64_t weights);

/// The errors of all layers, added.
[[nodiscard]] ErrorSums total_error(const RunResult& result);

/// The content of halfquad_report.json. `command` is the command line, program name first.
[[nodiscard]] boost::json::object build_report(const Job& job, const SpecOptions& spec, const RunResult& result,
                                               const RunFacts& facts, const std::vector<std::string>& command);

}  // namespace halfquad
