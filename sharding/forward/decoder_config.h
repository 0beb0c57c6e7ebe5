#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <boost/json/object.hpp>

namespace halfquad {

/// What a gated MLP applies to the gate.
enum class GateFunction : std::uint8_t { kSilu, kGeluTanh };

/// Rotary embeddings as turns a position: those of pair i are inverse_frequencies[i] times the position.
struct RopeTurns {
  std::vector<double> inverse_frequencies;  ///< One for each pair of rotated elements.
  double scale = 1;                         ///< Of sine and cosine.
};

/// What a decoder of one of the known families computes, beside its tensors.
struct DecoderConfig {
  std::string model_type;
  std::int64_t layers = 0, hidden = 0;
  std::int64_t heads = 0, key_value_heads = 0, head_size = 0;
  double norm_epsilon = 1e-6;
  bool norm_adds_one = false;   ///< Norms multiply with 1 + weight.
  bool has_post_norms = false;  ///< Norms behind attention and MLP too, before each is added.
  float embedding_scale = 1;
  double attention_scale = 1;
  double attention_softcap = 0;  ///< 0: none.
  GateFunction gate = GateFunction::kSilu;
  std::int64_t experts_per_token = 0;
  bool normalizes_experts = false;           ///< The chosen experts' weights are made to sum up to 1.
  std::optional<std::int64_t> window;        ///< Positions that the attention of some layers reaches back.
  std::optional<std::int64_t> longest_rope;  ///< Positions for which the turns below hold.
  RopeTurns rope;
  RopeTurns local_rope;              ///< Of the layers that are local.
  std::vector<bool> is_local_layer;  ///< One a layer.
};

/// Reads config.json. Throws kBadInput naming a model_type or setting that the forward pass does not know and what to
/// do instead, or a setting that is missing or wrong.
[[nodiscard]] DecoderConfig parse_decoder_config(const boost::json::object& config);

}  // namespace halfquad
