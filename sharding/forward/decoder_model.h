#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "sharding/forward/decoder_config.h"

namespace halfquad {

/// A linear layer, or those rows of one that give one of several results.
struct LinearPart {
  std::string module;  ///< "model.layers.0.self_attn.q_proj"
  const SourceTensor* weight = nullptr;
  const SourceTensor* bias = nullptr;  ///< Null: none.
  std::int64_t begin = 0, rows = 0, cols = 0;
};

/// down(function(gate(x)) * up(x))
struct GatedMlp {
  LinearPart gate, up, down;
};

/// One layer of a decoder; tensors that it does not have are null.
struct DecoderLayer {
  const SourceTensor* attention_norm = nullptr;
  LinearPart query, key, value, output;
  const SourceTensor* query_norm = nullptr;
  const SourceTensor* key_norm = nullptr;
  const SourceTensor* after_attention_norm = nullptr;
  const SourceTensor* mlp_norm = nullptr;
  const SourceTensor* after_mlp_norm = nullptr;
  std::vector<GatedMlp> mlp;  ///< One, or none in a layer of experts.
  LinearPart router;          ///< Without a weight in a dense layer.
  std::vector<GatedMlp> experts;
  std::vector<GatedMlp> shared_expert;  ///< One that every token passes, or none;
  LinearPart shared_gate;               ///< and how much of it counts.
};

/// A decoder's tensors by what they are for. Points into the checkpoint, which must outlive it.
struct DecoderModel {
  DecoderConfig config;
  const SourceTensor* embedding = nullptr;
  std::vector<DecoderLayer> layers;
  const SourceTensor* final_norm = nullptr;
  std::string head;  ///< Module of an output head with a weight of its own; empty: none.

  [[nodiscard]] std::int64_t vocabulary() const { return embedding->shape[0]; }
};

/// Throws kBadInput: what parse_decoder_config() does, a checkpoint without config.json, a tensor that is missing, has
/// another shape or no floating-point type, or that belongs to a layer and has no part in what is known of the family.
[[nodiscard]] DecoderModel bind_decoder(const Checkpoint& checkpoint);

}  // namespace halfquad
