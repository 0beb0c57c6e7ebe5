#pragma once

#include "io/checkpoint.h"
#include "sharding/formats/gguf_model.h"

namespace halfquad {

/// The GGUF file that another one becomes: all its keys, and its tensors in their order, each in the type it has.
/// `sources` of its tensors count the checkpoint's, among which experts may be matrices of their own. Throws kBadInput
/// naming a tensor that the checkpoint lacks. @pre checkpoint.gguf() != nullptr.
[[nodiscard]] GgufModel copy_gguf_model(const Checkpoint& checkpoint);

/// The GGUF file that a checkpoint becomes: a copy where it is one, else what make_gguf_model() says. `sources` of its
/// tensors count the checkpoint's. @pre checkpoint.gguf() != nullptr or checkpoint.config().
[[nodiscard]] GgufModel gguf_model_of(const Checkpoint& checkpoint);

/// Sets a key, where it stands or else behind all others.
void set_gguf_key(std::vector<GgufKey>& keys, GgufKey key);

}  // namespace halfquad
