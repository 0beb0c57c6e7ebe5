#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint.h"
#include "sharding/format.h"
#include "sharding/plain_model.h"
#include "sharding/quantized_model.h"
#include "sharding/rules.h"

namespace halfquad {

/// A finished output on its way into another format, as a checkpoint and decisions that a job takes.
struct ConvertedModel {
  Checkpoint checkpoint;
  std::vector<Decision> decisions;
  /// For each decision: why the layer may not come out as it went in. Empty for one whose codes, scales and zeros the
  /// format holds as they are.
  std::vector<std::string> changes;
  std::vector<std::string> notes;  ///< What the user should be told, one sentence each.
};

/// Layers keep width and group size where the format has them, else take wider codes and smaller groups that hold the
/// same grids, else are solved again; one that the format has no place for becomes a plain tensor. `stored`: dtype of
/// the new scales. `plain`: of `output`. Throws what Format::settle() does, and kUsage when nothing would be quantized.
[[nodiscard]] ConvertedModel convert_model(const QuantizedModel& output, PlainModel plain, const Format& format,
                                           DType stored);

}  // namespace halfquad
