#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include <boost/json/object.hpp>

#include "io/file_system.h"
#include "runtime/dtype.h"
#include "runtime/progress.h"
#include "runtime/stop_flag.h"
#include "sharding/plain_model.h"
#include "sharding/quantized_model.h"

namespace halfquad {

struct DequantizeOptions {
  DType dtype = DType::kBF16;  ///< F32, F16 or BF16, of the layers that were quantized; plain tensors stay as they are.
  int threads = 1;
  std::uint64_t memory_bytes = 2ULL << 30;
  ReadMode read_mode = ReadMode::kAuto;
};

/// Writes `output`'s model as plain weights ((q - z)·s in fp32, rounded once to options.dtype) to `file`, streamed.
void dequantize(FileSystem& fs, const QuantizedModel& output, const std::filesystem::path& file,
                const DequantizeOptions& options, ProgressCounters& progress, const StopFlag& stop);

/// Source bytes dequantize() reads, for progress.
[[nodiscard]] ProgressTotals dequantize_totals(const QuantizedModel& output);

/// Likewise with the tensors of `model`, which is output's.
void dequantize(FileSystem& fs, const QuantizedModel& output, const PlainModel& model,
                const std::filesystem::path& file, const DequantizeOptions& options, ProgressCounters& progress,
                const StopFlag& stop);
[[nodiscard]] ProgressTotals dequantize_totals(const PlainModel& model);

/// The config.json of a quantized model for the plain one: no quantization_config, torch_dtype as dequantized.
[[nodiscard]] boost::json::object dequantized_config(const std::optional<boost::json::object>& quantized, DType dtype);

}  // namespace halfquad
