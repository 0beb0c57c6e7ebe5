#include "sharding/forward/decoder_model.h"

#include <algorithm>
#include <set>
#include <string_view>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/shape_text.h"

namespace halfquad {
namespace {

using Shape = std::vector<std::int64_t>;

constexpr std::string_view kEmbedding = "embed_tokens.weight";
constexpr std::string_view kAdvice = "quantize with --importance weights, which needs no forward pass";

/// What the matrices of a gated MLP are called.
struct MlpNames {
  std::string_view gate = "gate_proj", up = "up_proj", down = "down_proj";
};
constexpr MlpNames kMixtralNames = {"w1", "w3", "w2"};

/// Finds tensors by name and remembers which had a part.
class Binder {
 public:
  explicit Binder(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  const SourceTensor* find(const std::string& name) {
    const SourceTensor* tensor = checkpoint_.find(name);
    if (tensor == nullptr) return nullptr;
    HALFQUAD_REQUIRE(
        is_float_source(tensor->dtype), kBadInput,
        fmt::format("tensor {} is {}, which the forward pass cannot read", quoted(name), name_of(tensor->dtype)));
    used_.insert(tensor->name);
    return tensor;
  }
  const SourceTensor* need(const std::string& name, const Shape& shape) {
    const SourceTensor* tensor = optional(name, shape);
    HALFQUAD_REQUIRE(
        tensor != nullptr, kBadInput,
        fmt::format("the checkpoint has no tensor {}, which the forward pass needs; {}", quoted(name), kAdvice));
    return tensor;
  }
  const SourceTensor* optional(const std::string& name, const Shape& shape) {
    const SourceTensor* tensor = find(name);
    if (tensor == nullptr) return nullptr;
    HALFQUAD_REQUIRE(tensor->shape == shape, kBadInput,
                     fmt::format("tensor {} has shape {} and not {}, as config.json says", quoted(name),
                                 shape_text(tensor->shape), shape_text(shape)));
    return tensor;
  }
  LinearPart linear(const std::string& module, std::int64_t rows, std::int64_t cols) {
    return {module, need(module + ".weight", {rows, cols}), optional(module + ".bias", {rows}), 0, rows, cols};
  }

  /// Refuses what begins with `prefix` and was not asked for: it would change what the layers compute.
  void require_all_used(const std::string& prefix) const {
    for (const SourceTensor& tensor : checkpoint_.tensors()) {
      if (!tensor.name.starts_with(prefix) || tensor.name.ends_with("rotary_emb.inv_freq")) continue;
      HALFQUAD_REQUIRE(used_.contains(tensor.name), kBadInput,
                       fmt::format("tensor {} has no part in the forward pass that is known for this family; {}",
                                   quoted(tensor.name), kAdvice));
    }
  }

 private:
  const Checkpoint& checkpoint_;
  std::set<std::string, std::less<>> used_;
};

LinearPart rows_of(const LinearPart& whole, std::int64_t begin, std::int64_t rows) {
  LinearPart part = whole;
  part.begin = begin;
  part.rows = rows;
  return part;
}

class LayerBinder {
 public:
  LayerBinder(Binder& binder, const DecoderConfig& config, std::string prefix)
      : binder_(binder), config_(config), prefix_(std::move(prefix)) {}

  DecoderLayer bind() {
    bind_norms();
    bind_attention();
    bind_mlp();
    return std::move(layer_);
  }

 private:
  const SourceTensor* norm(const std::string& name) {
    return binder_.need(prefix_ + name + ".weight", {config_.hidden});
  }

  void bind_norms() {
    layer_.attention_norm = norm("input_layernorm");
    if (config_.has_post_norms) {
      layer_.after_attention_norm = norm("post_attention_layernorm");
      layer_.mlp_norm = norm("pre_feedforward_layernorm");
      layer_.after_mlp_norm = norm("post_feedforward_layernorm");
    } else {
      layer_.mlp_norm = norm("post_attention_layernorm");
    }
  }

  void bind_attention() {
    const std::int64_t queries = config_.heads * config_.head_size;
    const std::int64_t keys = config_.key_value_heads * config_.head_size;
    const std::string attention = prefix_ + "self_attn.";
    if (binder_.find(attention + "qkv_proj.weight") != nullptr) {
      const LinearPart all = binder_.linear(attention + "qkv_proj", queries + 2 * keys, config_.hidden);
      layer_.query = rows_of(all, 0, queries);
      layer_.key = rows_of(all, queries, keys);
      layer_.value = rows_of(all, queries + keys, keys);
    } else {
      layer_.query = binder_.linear(attention + "q_proj", queries, config_.hidden);
      layer_.key = binder_.linear(attention + "k_proj", keys, config_.hidden);
      layer_.value = binder_.linear(attention + "v_proj", keys, config_.hidden);
    }
    layer_.output = binder_.linear(attention + "o_proj", config_.hidden, queries);
    layer_.query_norm = binder_.optional(attention + "q_norm.weight", {config_.head_size});
    layer_.key_norm = binder_.optional(attention + "k_norm.weight", {config_.head_size});
  }

  /// `prefix` ends in a dot. Its width is that of its tensors.
  GatedMlp gated(const std::string& prefix, const MlpNames& names) {
    const std::string fused = prefix + "gate_up_proj";
    GatedMlp mlp;
    if (binder_.find(fused + ".weight") != nullptr) {
      const std::int64_t width = rows_in(fused) / 2;
      const LinearPart both = binder_.linear(fused, 2 * width, config_.hidden);
      mlp.gate = rows_of(both, 0, width);
      mlp.up = rows_of(both, width, width);
    } else {
      const std::string gate = prefix + std::string(names.gate);
      const std::int64_t width = rows_in(gate);
      mlp.gate = binder_.linear(gate, width, config_.hidden);
      mlp.up = binder_.linear(prefix + std::string(names.up), width, config_.hidden);
    }
    mlp.down = binder_.linear(prefix + std::string(names.down), config_.hidden, mlp.gate.rows);
    return mlp;
  }

  /// Rows of a matrix whose number no setting has to agree with; 1 where it is missing, for whoever needs it to say so.
  std::int64_t rows_in(const std::string& module) {
    const SourceTensor* tensor = binder_.find(module + ".weight");
    return tensor == nullptr || tensor->shape.empty() ? 1 : tensor->shape[0];
  }

  void bind_mlp() {
    for (const std::string_view folder : {"mlp.", "block_sparse_moe."}) {
      const std::string prefix = prefix_ + std::string(folder);
      if (binder_.find(prefix + "gate.weight") != nullptr) return bind_experts(prefix);
    }
    layer_.mlp.push_back(gated(prefix_ + "mlp.", {}));
  }

  void bind_experts(const std::string& prefix) {
    const std::int64_t experts = rows_in(prefix + "gate");
    HALFQUAD_REQUIRE(config_.experts_per_token > 0 && config_.experts_per_token <= experts, kBadInput,
                     fmt::format("config.json: \"num_experts_per_tok\" is {}, but {} chooses among {} experts",
                                 config_.experts_per_token, quoted(prefix + "gate"), experts));
    layer_.router = binder_.linear(prefix + "gate", experts, config_.hidden);
    for (std::int64_t i = 0; i < experts; ++i) {
      const std::string expert = fmt::format("{}experts.{}.", prefix, i);
      const bool is_mixtral = binder_.find(expert + "w1.weight") != nullptr;
      layer_.experts.push_back(gated(expert, is_mixtral ? kMixtralNames : MlpNames{}));
    }
    if (binder_.find(prefix + "shared_expert_gate.weight") == nullptr) return;
    layer_.shared_gate = binder_.linear(prefix + "shared_expert_gate", 1, config_.hidden);
    layer_.shared_expert.push_back(gated(prefix + "shared_expert.", {}));
  }

  Binder& binder_;
  const DecoderConfig& config_;
  std::string prefix_;
  DecoderLayer layer_;
};

/// What stands before "embed_tokens.weight" of the text model: "model.", "model.language_model.", ...
std::string find_prefix(const Checkpoint& checkpoint) {
  for (const SourceTensor& tensor : checkpoint.tensors()) {
    const std::string_view name = tensor.name;
    if (!name.ends_with(kEmbedding)) continue;
    const std::string_view prefix = name.substr(0, name.size() - kEmbedding.size());
    if (prefix.empty() || prefix.ends_with('.')) return std::string(prefix);
  }
  throw Error(ErrorCode::kBadInput, fmt::format("the checkpoint has no tensor \"model.{}\", which the forward pass "
                                                "needs; {}",
                                                kEmbedding, kAdvice));
}

}  // namespace

DecoderModel bind_decoder(const Checkpoint& checkpoint) {
  HALFQUAD_REQUIRE(checkpoint.config().has_value(), kBadInput,
                   fmt::format("the checkpoint has no config.json, which tells what its layers compute; {}", kAdvice));
  DecoderModel model;
  model.config = parse_decoder_config(*checkpoint.config());
  const std::string prefix = find_prefix(checkpoint);
  Binder binder(checkpoint);
  model.embedding = binder.find(prefix + std::string(kEmbedding));
  HALFQUAD_REQUIRE(model.embedding->shape.size() == 2 && model.embedding->shape[0] > 0 &&
                       model.embedding->shape[1] == model.config.hidden,
                   kBadInput,
                   fmt::format("tensor {} has shape {} and not rows of {}, as config.json says",
                               quoted(model.embedding->name), shape_text(model.embedding->shape), model.config.hidden));
  for (std::int64_t i = 0; i < model.config.layers; ++i) {
    model.layers.push_back(LayerBinder(binder, model.config, fmt::format("{}layers.{}.", prefix, i)).bind());
  }
  binder.require_all_used(prefix + "layers.");
  model.final_norm = binder.need(prefix + "norm.weight", {model.config.hidden});
  for (const std::string_view head : {"lm_head", "language_model.lm_head"}) {
    if (checkpoint.find(std::string(head) + ".weight") != nullptr) model.head = head;
  }
  return model;
}

}  // namespace halfquad
