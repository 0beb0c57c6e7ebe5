#include "sharding/formats/gguf_tensor_scale.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>
#include <variant>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/formats/gguf_order.h"

namespace halfquad {
namespace {

/// What llama.cpp's graph of an architecture multiplies with its number.
struct Graph {
  std::string_view architecture;
  bool feed_forward = false;  ///< Experts, too, and the output head.
};
constexpr std::array kGraphs = {Graph{"llama", true},  Graph{"qwen3", true},   Graph{"qwen3moe", true},
                                Graph{"qwen2", false}, Graph{"gemma2", false}, Graph{"gemma3", false}};
constexpr std::array<std::string_view, 4> kAttention = {"attn_q", "attn_k", "attn_v", "attn_output"};
constexpr std::array<std::string_view, 6> kFeedForward = {"ffn_gate",      "ffn_up",      "ffn_down",
                                                          "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"};

std::string_view architecture_of(const GgufModel& model) {
  const auto key = std::ranges::find(model.keys, "general.architecture", &GgufKey::name);
  const auto* name = key == model.keys.end() ? nullptr : std::get_if<std::string>(&key->value);
  return name == nullptr ? std::string_view() : *name;
}

[[noreturn]] void refuse(const SourceTensor& scale, std::string_view what) {
  throw Error(ErrorCode::kBadInput, fmt::format("tensor {} of the GGUF file {}", quoted(scale.name), what));
}

float divisor_in(SmallTensorReader& reader, SourceTensor scale, std::int64_t part) {
  scale.offset += static_cast<std::uint64_t>(part) * sizeof(float);
  scale.bytes = sizeof(float);
  float factor = 0;
  std::memcpy(&factor, reader.read(scale).data(), sizeof factor);
  const float divisor = 1 / factor;
  if (!(divisor > 0) || !std::isfinite(divisor)) refuse(scale, "holds a scale that is not finite and positive");
  return divisor;
}

}  // namespace

std::string gguf_scale_name(std::string_view tensor) { return fmt::format("{}.scale", module_of(tensor)); }

bool gguf_applies_tensor_scale(std::string_view architecture, std::string_view tensor) {
  const auto* const graph = std::ranges::find(kGraphs, architecture, &Graph::architecture);
  if (graph == kGraphs.end()) return false;
  std::string_view module = module_of(tensor);
  if (module == "output") return graph->feed_forward;
  if (!module.starts_with("blk.")) return false;
  module.remove_prefix(module.rfind('.') + 1);
  return std::ranges::find(kAttention, module) != kAttention.end() ||
         (graph->feed_forward && std::ranges::find(kFeedForward, module) != kFeedForward.end());
}

void settle_tensor_scales(const GgufModel& model, std::vector<Decision>& decisions) {
  const std::string_view architecture = architecture_of(model);
  for (const GgufModelTensor& tensor : model.tensors) {
    if (gguf_applies_tensor_scale(architecture, tensor.name)) continue;
    for (const std::size_t source : tensor.sources) {
      Decision& decision = decisions[source];
      if (!decision.quantize() || !decision.spec.has_tensor_scale()) continue;
      std::string_view part = module_of(tensor.name);
      part.remove_prefix(part.rfind('.') + 1);
      decision.unscaled = fmt::format(
          "llama.cpp does not apply NVFP4's scale of a tensor to {} of {} models, which is left out: weights of less "
          "than "
          "about 0.01 are coded coarsely there; MXFP4 has no such scale",
          part, quoted(architecture));
    }
  }
}

void take_tensor_scale(const Checkpoint& checkpoint, SmallTensorReader& reader, std::int64_t parts,
                       StoredLayer& layer) {
  const auto take = [&](std::string_view key) {
    const SourceTensor* found = checkpoint.find(fmt::format("{}.{}", layer.module, key));
    if (found != nullptr) layer.tensors.push_back(static_cast<std::size_t>(found - checkpoint.tensors().data()));
    return found;
  };
  static_cast<void>(take("input_scale"));  // of activations: not of interest here
  const SourceTensor* scale = take("scale");
  if (scale == nullptr) return;
  const std::int64_t count = scale->elements();
  if (scale->dtype != DType::kF32 || (count != 1 && count != parts)) {
    refuse(*scale, fmt::format("is not F32 with 1 element{}", parts > 1 ? fmt::format(" or {}", parts) : ""));
  }
  std::vector<float> divisors;
  for (std::int64_t part = 0; part < count; ++part) divisors.push_back(divisor_in(reader, *scale, part));
  if (std::ranges::all_of(divisors, [&](float divisor) { return divisor == divisors.front(); })) {
    layer.tensor_scale = divisors.front();
  } else {
    layer.part_scales = std::move(divisors);
  }
}

}  // namespace halfquad
