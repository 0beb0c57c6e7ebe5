#pragma once

#include <cstdint>
#include <halfquad/quantize.h>
#include <optional>
#include <string>

#include "kernels/quant_spec.h"
#include "runtime/dtype.h"

namespace halfquad {

/// Threads that may be asked for.
inline constexpr int kMostThreads = 4096;

// The library's own words for what the program's parts call otherwise. Values that are none of an enumeration's are
// kUsage: they come from the caller.
[[nodiscard]] DType dtype_of(FloatType type);
[[nodiscard]] CodeWidth width_of(CodeBits bits);
/// Nothing for kAutomatic.
[[nodiscard]] std::optional<SolverKind> solver_of(SolveMethod method);

}  // namespace halfquad
