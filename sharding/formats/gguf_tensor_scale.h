#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf.h"
#include "sharding/formats/gguf_model.h"
#include "sharding/rules.h"
#include "sharding/stored_layer.h"

namespace halfquad {

/// F32 beside a tensor of NVFP4, which its products are multiplied with: one number, or one for each expert
/// ("blk.0.ffn_up.scale").
[[nodiscard]] std::string gguf_scale_name(std::string_view tensor);

/// Whether llama.cpp multiplies with the number beside a tensor of this name. It reads one for every architecture and
/// then, in most, leaves some of them out of its graphs.
[[nodiscard]] bool gguf_applies_tensor_scale(std::string_view architecture, std::string_view tensor);

/// Says of NVFP4 that is to be where llama.cpp applies no such number that it has none: scales of groups, whole
/// multiples of 2^-10, are all there is.
void settle_tensor_scales(const GgufModel& model, std::vector<Decision>& decisions);

/// Takes the scale of a layer stored as NVFP4 from the file; 1 when there is none. `parts`: experts in its tensor.
/// Throws kBadInput naming the tensor when it is neither of one number nor of one for each part, or holds one that is
/// not finite and positive.
void take_tensor_scale(const Checkpoint& checkpoint, SmallTensorReader& reader, std::int64_t parts, StoredLayer& layer);

}  // namespace halfquad
