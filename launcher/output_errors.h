#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <CLI/App.hpp>
#include <boost/json/object.hpp>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "launcher/devices.h"
#include "launcher/options.h"
#include "sharding/activations.h"
#include "sharding/output_error.h"
#include "sharding/verify.h"

namespace halfquad {

/// Which inputs output errors are measured for, as typed.
struct ActivationOptions {
  std::string activations;  ///< A number of random samples, or a file.
  std::optional<std::uint64_t> seed;
  DeviceOptions devices;

  [[nodiscard]] bool asked() const noexcept { return !activations.empty() || seed.has_value(); }
};

void add_activation_options(CLI::App& app, ActivationOptions& options);

/// What a run works with.
struct OutputErrorTools {
  const MachineOptions& machine;
  /// For what goes on with less than was hoped for. From any thread; must outlive the run.
  std::function<void(const std::string&)> warn;
};

/// Output errors of the layers that were verified.
struct OutputErrorReport {
  std::vector<OutputError> errors;     ///< By layer; without samples where FILE has none.
  std::string inputs;                  ///< "128 random inputs (seed 0)"
  std::string gemm;                    ///< What multiplied.
  std::optional<std::string> no_blas;  ///< Why it was no BLAS.
  std::uint64_t bytes_read = 0;
};

/// Measures output errors for what the options say.
class OutputErrorRun {
 public:
  /// Checks everything that can be wrong with the request. Throws kUsage for a bad option, kBadInput for a bad file.
  OutputErrorRun(FileSystem& fs, const ActivationOptions& options, const OutputErrorTools& tools,
                 const QuantizedModel& output, const Checkpoint& source);

  /// Bytes of source tensors that measure() goes through, for the progress bar.
  [[nodiscard]] std::uint64_t source_bytes() const;

  [[nodiscard]] OutputErrorReport measure(std::span<const LayerError> verified, ProgressCounters& progress,
                                          const StopFlag& stop) const;

 private:
  void choose_gemm(const DeviceOptions& options, const OutputErrorTools& tools);

  FileSystem& fs_;
  const QuantizedModel& output_;
  const Checkpoint& source_;
  OutputErrorOptions options_;
  OutputErrorReport report_;  // all but the errors
  std::unique_ptr<Activations> activations_;
};

/// Mean and worst, in lines for people. `layers` are those of the report.
[[nodiscard]] std::string output_error_text(const OutputErrorReport& report, std::span<const LayerError> layers);
[[nodiscard]] boost::json::object output_error_json(const OutputErrorReport& report,
                                                    std::span<const LayerError> layers);

}  // namespace halfquad
