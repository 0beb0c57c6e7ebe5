#include "sharding/synth_preset.h"

#include <algorithm>
#include <string>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

using enum SynthFamily;

constexpr SynthNarrow kTinyNarrow = {128, 64, 32, 16, 32};

// Name, family, hidden, intermediate, layers, heads, key/value heads, vocabulary, positions, theta, epsilon, head_dim,
// experts {count, dense layers, intermediate, per token}, narrow projections, as published.
constexpr std::array<SynthPreset, 14> kPresets = {{
    {"tiny", kLlama, 256, 704, 4, 4, 2, 512, 2048, 10000.0, 1e-5},
    {"llama-8b", kLlama, 4096, 14336, 32, 32, 8, 128256, 8192, 500000.0, 1e-5},
    {"llama-13b", kLlama, 5120, 13824, 40, 40, 40, 32000, 4096, 10000.0, 1e-5},
    {"llama-70b", kLlama, 8192, 28672, 80, 64, 8, 32000, 4096, 10000.0, 1e-5},
    {"llama-405b", kLlama, 16384, 53248, 126, 128, 8, 128256, 131072, 500000.0, 1e-5},
    {"deepseek-671b", kDeepSeek, 7168, 18432, 61, 128, 128, 129280, 163840, 10000.0, 1e-6, 0, {256, 3, 2048}},
    {"kimi-1t", kDeepSeek, 7168, 18432, 61, 64, 64, 163840, 131072, 50000.0, 1e-6, 0, {384, 1, 2048}},
    {"deepseek-v3", kDeepSeek, 7168, 18432, 61, 128, 128, 129280, 163840, 10000.0, 1e-6, 0, {256, 3, 2048}, {}, true},
    {"qwen3-30b-a3b", kQwen3Moe, 2048, 6144, 48, 32, 4, 151936, 40960, 1000000.0, 1e-6, 128, {128, 0, 768}},
    {"gpt-oss-20b", kGptOss, 2880, 2880, 24, 64, 8, 201088, 131072, 150000.0, 1e-5, 64, {32, 0, 2880, 4}},
    {"gpt-oss-120b", kGptOss, 2880, 2880, 36, 64, 8, 201088, 131072, 150000.0, 1e-5, 64, {128, 0, 2880, 4}},
    {"tiny-deepseek-v3", kDeepSeek, 256, 512, 2, 4, 4, 512, 2048, 10000.0, 1e-6, 0, {8, 1, 192, 2}, kTinyNarrow, true},
    {"tiny-qwen3-moe", kQwen3Moe, 256, 512, 2, 4, 2, 512, 2048, 1000000.0, 1e-6, 64, {8, 0, 192, 2}},
    {"tiny-gpt-oss", kGptOss, 256, 192, 2, 4, 2, 512, 2048, 150000.0, 1e-5, 64, {4, 0, 192, 2}},
}};

constexpr int kMaxLayers = 10000;

std::string preset_list() {
  std::string names;
  for (const SynthPreset& preset : kPresets) names.append(names.empty() ? "" : ", ").append(preset.name);
  return names;
}

}  // namespace

std::vector<std::string_view> synth_presets() {
  std::vector<std::string_view> names;
  for (const SynthPreset& preset : kPresets) names.push_back(preset.name);
  return names;
}

SynthPreset synth_preset(const SynthOptions& options) {
  const auto found = std::ranges::find(kPresets, options.preset, &SynthPreset::name);
  HALFQUAD_REQUIRE(found != kPresets.end(), kUsage,
                   fmt::format("unknown preset {}; known are {}", halfquad::quoted(options.preset), preset_list()));
  HALFQUAD_REQUIRE(options.dtype == DType::kBF16 || options.dtype == DType::kF16 || options.dtype == DType::kF32,
                   kUsage, fmt::format("synthetic weights are BF16, F16 or F32, not {}", name_of(options.dtype)));
  HALFQUAD_REQUIRE(options.shard_bytes > 0, kUsage, "the largest weight file must have room for some bytes, not 0");
  SynthPreset preset = *found;
  preset.layers = options.layers.value_or(preset.layers);
  HALFQUAD_REQUIRE(preset.layers >= 1 && preset.layers <= kMaxLayers, kUsage,
                   fmt::format("{} layers asked for; a synthetic model has 1 to {}", preset.layers, kMaxLayers));
  return preset;
}

}  // namespace halfquad
