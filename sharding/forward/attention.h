#pragma once

#include <cstdint>

#include "sharding/forward/elementwise.h"
#include "sharding/forward/panels.h"
#include "sharding/forward/token_batch.h"

namespace halfquad {

/// How queries meet keys.
struct AttentionShape {
  std::int64_t heads = 1, key_value_heads = 1;  ///< Several query heads in a row share one of the others.
  std::int64_t head_size = 0;
  double scale = 1;
  double softcap = 0;  ///< Scores become softcap * tanh(score / softcap); 0: they stay.
};

/// Causal attention within each sequence: every token looks at itself and those before it. Sums of products in fp32 in
/// index order, softmax in double.
void attend(const Workers& workers, const AttentionShape& shape, const TokenBatch& batch, const Panels& query,
            const Panels& key, const Panels& value, const Panels& out);

}  // namespace halfquad
