#include "sharding/vocabulary.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "runtime/check.h"
#include "runtime/dtype.h"
#include "sharding/layer_class.h"

namespace halfquad {

bool is_vocabulary(const SourceTensor& tensor) {
  constexpr std::array<std::string_view, 9> kNames = {"embed_tokens", "wte",     "tok_embeddings", "word_embeddings",
                                                      "embed_in",     "lm_head", "embed_out",      "token_embd",
                                                      "output"};  // the last two of GGUF
  if (!tensor.name.ends_with(".weight") || tensor.shape.size() != 2 || !is_float_source(tensor.dtype)) return false;
  const std::string_view module = module_of(tensor.name);
  if (block_place(module) || default_keep_reason(tensor, "") == KeepReason::kVision) return false;
  const std::string_view last = module.substr(module.rfind('.') + 1);  // npos + 1 is 0
  return std::ranges::find(kNames, last) != kNames.end();
}

void quantize_vocabulary(Recipe& recipe, const Checkpoint& checkpoint, const SpecOverride& spec) {
  bool found = false;
  for (const SourceTensor& tensor : checkpoint.tensors()) {
    if (!is_vocabulary(tensor)) continue;
    recipe.tensors[tensor.name] = spec;
    found = true;
  }
  HALFQUAD_REQUIRE(found, kUsage, "--embeddings: the model has neither a token embedding nor an output head");
}

}  // namespace halfquad
