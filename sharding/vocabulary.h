#pragma once

#include "io/checkpoint.h"
#include "sharding/rules.h"

namespace halfquad {

/// Whether a tensor stands for the tokens of a model as a whole and can be quantized: their embedding, or the output
/// head over them.
[[nodiscard]] bool is_vocabulary(const SourceTensor& tensor);

/// Has them quantized with `spec`. Throws kUsage for a model that has none.
void quantize_vocabulary(Recipe& recipe, const Checkpoint& checkpoint, const SpecOverride& spec);

}  // namespace halfquad
