#pragma once

#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "sharding/rules.h"

namespace halfquad {

/// Which rules and which skip patterns find each tensor, in the checkpoint's order: texts that are equal when the same
/// ones do. Throws kUsage as decide() does.
[[nodiscard]] std::vector<std::string> pattern_marks(const Checkpoint& checkpoint, const Recipe& recipe);

}  // namespace halfquad
