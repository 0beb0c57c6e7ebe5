#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include <hwy/targets.h>

#include "kernels/solver.h"
#include "runtime/error.h"

namespace halfquad::simd {

/// The SIMD target that a dispatch table is asked for.
struct FoundTarget {
  std::size_t index = 0;  ///< Its place in HWY_DISPATCH_TABLE.
  std::string name;
};

/// The fastest target of this CPU, or the named one (simd_targets()). Throws kUsage for a target this binary or CPU
/// does not have. Internal to the file that includes it, whose own targets the place is among.
[[maybe_unused]] static FoundTarget find_target(const std::optional<std::string>& target) {
  for (const std::int64_t candidate : hwy::SupportedAndGeneratedTargets()) {
    if (target && *target != hwy::TargetName(candidate)) continue;
    hwy::ChosenTarget chosen;
    chosen.Update(candidate);
    return {chosen.GetIndex(), hwy::TargetName(candidate)};
  }
  std::string known;
  for (const std::string& name : simd_targets()) known += (known.empty() ? "" : ", ") + name;
  throw Error(ErrorCode::kUsage, "SIMD target '" + target.value_or("best") +
                                     "' is not available here; this program and CPU have: " + known);
}

}  // namespace halfquad::simd
