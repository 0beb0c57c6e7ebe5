#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "io/checkpoint.h"
#include "sharding/rules.h"

namespace halfquad {

/// What names the layer that engines merge a block's module into together with others; empty for all other modules.
[[nodiscard]] std::string fused_layer_of(std::string_view module);

/// Engines that merge a block's q, k and v, or its gate and up, into one layer need one spec for all of them. Keeps all
/// parts of such a layer when one of them has to be kept for its shape; throws kUsage naming two parts that rules gave
/// different specs, or of which they keep only some.
void settle_fused_parts(const Checkpoint& checkpoint, std::vector<Decision>& decisions);

}  // namespace halfquad
