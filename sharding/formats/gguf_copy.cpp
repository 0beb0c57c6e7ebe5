#include "sharding/formats/gguf_copy.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/gguf_source.h"

namespace halfquad {
namespace {

std::size_t source_of(const Checkpoint& checkpoint, std::string_view name) {
  const SourceTensor* tensor = checkpoint.find(name);
  HALFQUAD_REQUIRE(tensor != nullptr, kBadInput,
                   fmt::format("the checkpoint lacks tensor {} of its GGUF file", quoted(name)));
  return static_cast<std::size_t>(tensor - checkpoint.tensors().data());
}

std::vector<std::size_t> sources_of(const Checkpoint& checkpoint, const GgufTensor& tensor) {
  if (tensor.dims.size() != 3 || checkpoint.find(tensor.name) != nullptr) return {source_of(checkpoint, tensor.name)};
  std::vector<std::size_t> experts;
  for (std::int64_t expert = 0; expert < tensor.dims[2]; ++expert) {
    experts.push_back(source_of(checkpoint, fmt::format("{}.{}.weight", module_of(tensor.name), expert)));
  }
  return experts;
}

}  // namespace

GgufModel copy_gguf_model(const Checkpoint& checkpoint) {
  const GgufHeader& header = *checkpoint.gguf();
  GgufModel model;
  model.keys = header.keys;
  for (const GgufTensor& tensor : header.tensors) {
    GgufModelTensor& copy = model.tensors.emplace_back();
    copy.name = tensor.name;
    copy.dims = tensor.dims;
    copy.sources = sources_of(checkpoint, tensor);
    copy.stored_as = tensor.type;
    const bool is_linear = std::ranges::all_of(copy.sources, [&](std::size_t source) {
      return gguf_keep_reason(checkpoint.tensors()[source]) == KeepReason::kNone;
    });
    copy.kind = is_linear ? GgufTensorKind::kLinear : GgufTensorKind::kKeep;
  }
  return model;
}

GgufModel gguf_model_of(const Checkpoint& checkpoint) {
  if (checkpoint.gguf() != nullptr) return copy_gguf_model(checkpoint);
  std::vector<GgufSourceTensor> tensors;
  for (const SourceTensor& tensor : checkpoint.tensors()) tensors.push_back({tensor.name, tensor.shape});
  return make_gguf_model(*checkpoint.config(), tensors);
}

void set_gguf_key(std::vector<GgufKey>& keys, GgufKey key) {
  const auto found = std::ranges::find(keys, key.name, &GgufKey::name);
  if (found == keys.end()) {
    keys.push_back(std::move(key));
  } else {
    *found = std::move(key);
  }
}

}  // namespace halfquad
