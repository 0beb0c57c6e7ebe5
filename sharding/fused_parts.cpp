#include "sharding/fused_parts.h"

#include <algorithm>
#include <array>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::array<std::string_view, 3> kAttention = {"q_proj", "k_proj", "v_proj"};
constexpr std::array<std::string_view, 2> kGated = {"gate_proj", "up_proj"};
constexpr std::array<std::string_view, 2> kMixtral = {"w1", "w3"};
constexpr std::array<std::string_view, 2> kLatent = {"q_a_proj", "kv_a_proj_with_mqa"};
constexpr std::array<std::span<const std::string_view>, 4> kFused = {kAttention, kGated, kMixtral, kLatent};

/// Kept for what nobody asked for: then the others go along.
bool cannot_be_quantized(const Decision& decision) {
  return decision.keep == KeepReason::kShape || decision.keep == KeepReason::kNonfinite;
}

void settle(const Checkpoint& checkpoint, std::span<Decision* const> parts) {
  const auto name = [&](const Decision& decision) { return quoted(checkpoint.tensors()[decision.source].name); };
  const auto unfit = std::ranges::find_if(parts, [](const Decision* part) { return cannot_be_quantized(*part); });
  for (Decision* part : parts) {
    if (unfit != parts.end() && part->quantize()) {
      part->keep = (*unfit)->keep;
      part->why = fmt::format("{}, with which engines merge it, {}", name(**unfit),
                              part->keep == KeepReason::kShape ? "does not fit" : "holds NaN or infinity");
    }
  }
  for (const Decision* part : parts) {
    const Decision& first = *parts.front();
    HALFQUAD_REQUIRE(part->quantize() == first.quantize() && (!part->quantize() || part->spec == first.spec), kUsage,
                     fmt::format("{} and {} have different settings, but engines that load this format merge them into "
                                 "one layer; give both the same with a rule",
                                 name(first), name(*part)));
  }
}

}  // namespace

// "model.layers.0.mlp" and the number of the fused layer in it, for a part of one.
std::string fused_layer_of(std::string_view module) {
  const std::size_t dot = module.rfind('.');
  if (dot == std::string_view::npos) return {};
  const std::string_view last = module.substr(dot + 1);
  for (std::size_t i = 0; i < kFused.size(); ++i) {
    if (std::ranges::find(kFused[i], last) != kFused[i].end()) return fmt::format("{}#{}", module.substr(0, dot), i);
  }
  return {};
}

void settle_fused_parts(const Checkpoint& checkpoint, std::vector<Decision>& decisions) {
  std::map<std::string, std::vector<Decision*>> layers;
  for (Decision& decision : decisions) {
    const SourceTensor& tensor = checkpoint.tensors()[decision.source];
    if (tensor.shape.size() != 2) continue;
    const std::string layer = fused_layer_of(module_of(tensor.name));
    if (!layer.empty() && tensor.name.ends_with(".weight")) layers[layer].push_back(&decision);
  }
  for (auto& [layer, parts] : layers) settle(checkpoint, parts);
}

}  // namespace halfquad
