#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "kernels/gemm.h"
#include "runtime/progress.h"
#include "runtime/stop_flag.h"
#include "sharding/activations.h"
#include "sharding/quantized_model.h"

namespace halfquad {

/// Error of a layer's outputs for some inputs X. Products are fp32, these sums double: equal for any number of threads
/// and any memory budget, and between backends of Gemm, to kOutputErrorTolerance.
struct OutputError {
  std::int64_t samples = 0;  ///< Rows of X.
  double square = 0;         ///< ||X (W - Ŵ)ᵀ||², over all samples and outputs
  double signal2 = 0;        ///< ||X Wᵀ||²

  /// ||X (W - Ŵ)ᵀ|| / ||X Wᵀ||. Nothing when the outputs are all zero or beyond fp32.
  [[nodiscard]] std::optional<double> relative() const noexcept;
};

/// How far apart two computations of OutputError::relative() may be, relatively.
inline constexpr double kOutputErrorTolerance = 1e-4;

struct OutputErrorOptions {
  int threads = 1;
  std::uint64_t memory_bytes = 2ULL << 30;  ///< Of all buffers; a Gemm may have memory of its own.
  ReadMode read_mode = ReadMode::kAuto;
  std::function<std::unique_ptr<Gemm>()> make_gemm;  ///< One for each worker, made by the calling thread.
};

/// A layer and the tensor of the source that it was made from, of the same shape.
struct OutputErrorLayer {
  const StoredLayer* layer = nullptr;
  const SourceTensor* original = nullptr;
};

struct OutputErrors {
  std::vector<OutputError> layers;  ///< One for each layer asked for; without samples where there are none.
  std::uint64_t bytes_read = 0;
};

/// Measures the output errors of `layers`, tile by tile; NaN and infinite weights of the source count as zero. Where
/// the budget does not hold all samples of a layer, its tiles are read once for each part of them.
/// Throws kOutOfMemory when the budget holds less than a tile and four samples.
[[nodiscard]] OutputErrors measure_output_errors(FileSystem& fs, const QuantizedModel& output, const Checkpoint& source,
                                                 std::span<const OutputErrorLayer> layers,
                                                 const Activations& activations, const OutputErrorOptions& options,
                                                 ProgressCounters& progress, const StopFlag& stop);

}  // namespace halfquad
