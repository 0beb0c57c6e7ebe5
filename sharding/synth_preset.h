#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include <boost/json/object.hpp>

#include "io/safetensors_header.h"
#include "runtime/dtype.h"
#include "sharding/synth.h"

namespace halfquad {

enum class SynthFamily : std::uint8_t { kLlama, kDeepSeek, kQwen3Moe, kGptOss };

struct SynthExperts {
  int count = 0;
  int dense_layers = 0;  ///< Layers at the beginning that have none.
  std::int64_t intermediate = 0;
  int per_token = 8;
};

/// Widths of DeepSeek's attention through narrow projections.
struct SynthNarrow {
  std::int64_t query_rank = 1536, key_value_rank = 512;
  std::int64_t head_plain = 128, head_rotated = 64, head_value = 128;
};

/// The shape of a known model.
struct SynthPreset {
  std::string_view name;
  SynthFamily family = SynthFamily::kLlama;
  std::int64_t hidden = 0, intermediate = 0;
  int layers = 0, heads = 0, kv_heads = 0;
  std::int64_t vocab = 0;
  std::int64_t positions = 0;
  double rope_theta = 10000.0;
  double norm_eps = 1e-5;
  std::int64_t head_dim = 0;  ///< 0: hidden / heads.
  SynthExperts experts{};
  SynthNarrow narrow{};
  /// DeepSeek: linear layers in FP8 with scales, as published, and a block that predicts the token after the next.
  bool as_published = false;

  [[nodiscard]] std::int64_t head_width() const noexcept { return head_dim != 0 ? head_dim : hidden / heads; }
};

/// Rows and columns that share a scale in DeepSeek's FP8.
inline constexpr std::array<std::int64_t, 2> kSynthFp8Block = {128, 128};

/// The preset that the options name, with their number of layers. Throws kUsage for options synthesize() refuses.
[[nodiscard]] SynthPreset synth_preset(const SynthOptions& options);

/// The model's tensors in the order of its state dict, begin and end not set; `dtype`: of what is neither FP8 nor
/// MXFP4.
[[nodiscard]] std::vector<TensorEntry> synth_tensors(const SynthPreset& preset, DType dtype);

/// Its config.json.
[[nodiscard]] boost::json::object synth_config(const SynthPreset& preset, DType dtype);

}  // namespace halfquad
