#include "sharding/formats/gguf_model.h"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/formats/gguf_config.h"
#include "sharding/formats/gguf_names.h"
#include "sharding/formats/gguf_parameters.h"

namespace halfquad {
namespace {

[[noreturn]] void refuse(std::string_view tensor, std::string_view reason) {
  throw Error(ErrorCode::kBadInput, fmt::format("tensor {} {}", quoted(tensor), reason));
}

GgufTensorKind kind_of(const GgufSourceName& name, std::size_t dims) {
  if (dims < 2 || name.is_bias) return GgufTensorKind::kF32;
  switch (name.role) {
    case GgufRole::kNorm:
    case GgufRole::kRouter:
      return GgufTensorKind::kF32;
    case GgufRole::kEmbedding:
      return GgufTensorKind::kKeep;
    case GgufRole::kLinear:
    case GgufRole::kRopeQuery:
    case GgufRole::kRopeKey:
    case GgufRole::kExpert:
    case GgufRole::kKeyValueB:
      return GgufTensorKind::kLinear;
  }
  throw Error(ErrorCode::kInternal, "a GGUF role without a kind");
}

/// Maps the sources of one model.
class ModelBuilder {
 public:
  ModelBuilder(const boost::json::object& config, std::span<const GgufSourceTensor> sources)
      : config_(config), family_(gguf_family(config_.model_class())), sources_(sources) {}

  [[nodiscard]] GgufModel build() {
    model_.architecture = gguf_architecture(family_);
    model_.keys = {{"general.architecture", model_.architecture}, {"general.type", std::string("model")}};
    add_parameters();
    for (std::size_t i = 0; i < sources_.size(); ++i) add_source(i);
    finish_experts();
    check_complete();
    return std::move(model_);
  }

 private:
  void add_parameters() {
    GgufParameters parameters = gguf_parameters(family_, config_);
    std::ranges::move(parameters.keys, std::back_inserter(model_.keys));
    model_.warnings = std::move(parameters.warnings);
    for (GgufExtraTensor& extra : parameters.tensors) {
      GgufModelTensor tensor;
      tensor.name = std::move(extra.name);
      tensor.dims = {static_cast<std::int64_t>(extra.values.size())};
      tensor.kind = GgufTensorKind::kF32;
      tensor.values = std::move(extra.values);
      add(std::move(tensor));
    }
  }

  void add_source(std::size_t index) {
    const GgufSourceTensor& source = sources_[index];
    const std::optional<GgufSourceName> name = gguf_source_name(family_, source.name, config_.layers());
    if (!name) {
      refuse(source.name, fmt::format("is none that {} models are known to have, so it has no name in a GGUF file",
                                      model_.architecture));
    }
    if (const std::string reason = why_dropped(*name); !reason.empty()) {
      model_.dropped.push_back({index, reason});
      return;
    }
    check_shape(source, *name);
    if (name->role == GgufRole::kExpert) {
      add_expert(index, *name);
    } else if (name->role == GgufRole::kKeyValueB) {
      add_key_value_b(index, name->layer);
    } else {
      add_plain(index, *name);
    }
  }

  [[nodiscard]] std::string why_dropped(const GgufSourceName& name) const {
    const bool tied = config_.flag("tie_word_embeddings").value_or(family_ == GgufFamily::kGemma3);
    const bool shares = family_ == GgufFamily::kDeepseek2;
    if (name.target == "output.weight" && tied && shares) return "the output head is tied to the token embeddings";
    return name.dropped;
  }

  static void check_shape(const GgufSourceTensor& source, const GgufSourceName& name) {
    const bool vector = name.is_bias || name.role == GgufRole::kNorm || name.target.ends_with(".bias");
    const std::size_t dims = vector ? 1 : 2;
    if (source.shape.size() != dims) {
      refuse(source.name, fmt::format("has the shape [{}] instead of {} dimension{}", fmt::join(source.shape, ", "),
                                      dims, dims == 1 ? "" : "s"));
    }
    if (std::ranges::any_of(source.shape, [](std::int64_t dim) { return dim <= 0; })) {
      refuse(source.name, "has no elements");
    }
  }

  void add_plain(std::size_t index, const GgufSourceName& name) {
    const GgufSourceTensor& source = sources_[index];
    GgufModelTensor tensor;
    tensor.name = name.target;
    tensor.dims.assign(source.shape.rbegin(), source.shape.rend());
    tensor.kind = kind_of(name, source.shape.size());
    tensor.sources = {index};
    if (name.role == GgufRole::kRopeQuery) tensor.rows = interleaved(source, config_.heads());
    if (name.role == GgufRole::kRopeKey) tensor.rows = interleaved(source, config_.key_value_heads());
    const bool gemma = family_ == GgufFamily::kGemma2 || family_ == GgufFamily::kGemma3;
    if (gemma && name.role == GgufRole::kNorm) tensor.add = 1.0F;
    if (name.target == "token_embd.weight") set_vocabulary(tensor, source);
    add(std::move(tensor));
  }

  /// Gemma 3's embeddings may have rows of no token, which llama.cpp does not take.
  void set_vocabulary(GgufModelTensor& tensor, const GgufSourceTensor& source) {
    const std::int64_t rows = source.shape.front();
    model_.vocabulary = config_.integer({"vocab_size"}).value_or(rows);
    if (model_.vocabulary == rows) return;
    if (family_ != GgufFamily::kGemma3 || model_.vocabulary > rows) {
      refuse(source.name, fmt::format("has {} rows, but config.json has a vocab_size of {}", rows, model_.vocabulary));
    }
    tensor.rows = {GgufRows::Order::kSlice, rows, 0, model_.vocabulary};
    tensor.dims.back() = model_.vocabulary;
  }

  static GgufRows interleaved(const GgufSourceTensor& source, std::int64_t heads) {
    const std::int64_t rows = source.shape.front();
    if (heads <= 0 || rows % (2 * heads) != 0) {
      refuse(source.name, fmt::format("has {} rows, which do not make {} heads of an even length", rows, heads));
    }
    return {GgufRows::Order::kInterleaved, rows / heads, 0, 0};
  }

  /// llama.cpp applies the halves of kv_b_proj at different places: the keys' transposed, to the queries.
  void add_key_value_b(std::size_t index, std::int64_t layer) {
    const GgufSourceTensor& source = sources_[index];
    const std::int64_t heads = config_.heads();
    const std::int64_t keys = config_.need_integer({"qk_nope_head_dim"});
    const std::int64_t values = config_.need_integer({"v_head_dim"});
    const std::int64_t rank = source.shape.back();
    if (source.shape.front() != heads * (keys + values)) {
      refuse(source.name, fmt::format("has {} rows instead of {} for {} heads of {} keys and {} values",
                                      source.shape.front(), heads * (keys + values), heads, keys, values));
    }
    GgufModelTensor key;
    key.name = fmt::format("blk.{}.attn_k_b.weight", layer);
    key.dims = {keys, rank, heads};
    key.kind = GgufTensorKind::kKeep;
    key.sources = {index};
    key.rows = {GgufRows::Order::kTransposedSlice, keys + values, 0, keys};
    add(std::move(key));
    GgufModelTensor value;
    value.name = fmt::format("blk.{}.attn_v_b.weight", layer);
    value.dims = {rank, values, heads};
    value.sources = {index};
    value.rows = {GgufRows::Order::kSlice, keys + values, keys, values};
    add(std::move(value));
  }

  void add_expert(std::size_t index, const GgufSourceName& name) {
    const auto experts = static_cast<std::size_t>(config_.experts());
    if (std::cmp_greater_equal(name.expert, experts)) {
      refuse(sources_[index].name, fmt::format("is of an expert beyond the {} in config.json", experts));
    }
    auto [at, is_new] = experts_.try_emplace(name.target, model_.tensors.size());
    if (is_new) {
      GgufModelTensor stack;
      stack.name = name.target;
      stack.dims = {sources_[index].shape[1], sources_[index].shape[0], static_cast<std::int64_t>(experts)};
      stack.sources.assign(experts, kNone);
      add(std::move(stack));
    }
    GgufModelTensor& stack = model_.tensors[at->second];
    std::size_t& place = stack.sources[static_cast<std::size_t>(name.expert)];
    if (place != kNone)
      refuse(sources_[index].name, fmt::format("and {} are one expert", quoted(sources_[place].name)));
    place = index;
    if (sources_[index].shape[0] != stack.dims[1] || sources_[index].shape[1] != stack.dims[0]) {
      refuse(sources_[index].name, fmt::format("has the shape [{}], unlike the layer's other experts",
                                               fmt::join(sources_[index].shape, ", ")));
    }
  }

  void finish_experts() const {
    for (const auto& [name, at] : experts_) {
      const std::vector<std::size_t>& sources = model_.tensors[at].sources;
      const auto missing = std::ranges::find(sources, kNone);
      if (missing != sources.end()) {
        refuse(name, fmt::format("would lack expert {} of {}: the checkpoint does not hold it",
                                 missing - sources.begin(), sources.size()));
      }
    }
  }

  void add(GgufModelTensor tensor) {
    if (!names_.insert(tensor.name).second) {
      refuse(tensor.sources.empty() ? tensor.name : sources_[tensor.sources.front()].name,
             fmt::format("would be {} a second time", quoted(tensor.name)));
    }
    model_.tensors.push_back(std::move(tensor));
  }

  void check_complete() const {
    require("token_embd.weight");
    require("output_norm.weight");
    for (std::int64_t layer = 0; layer < config_.layers(); ++layer) {
      for (const GgufNameRule& rule : gguf_layer_rules()) {
        if (rule.is_for(family_) && is_needed(rule.need, layer)) {
          require(fmt::format("blk.{}.{}.weight", layer, rule.target));
        }
      }
    }
  }

  [[nodiscard]] bool is_needed(GgufNeed need, std::int64_t layer) const {
    const bool sparse = config_.experts() > 0 && layer >= config_.leading_dense_layers();
    const bool query_lora = config_.integer({"q_lora_rank"}).has_value();
    switch (need) {
      case GgufNeed::kAlways:
        return true;
      case GgufNeed::kDenseLayers:
        return !sparse;
      case GgufNeed::kExpertLayers:
        return sparse;
      case GgufNeed::kQueryLora:
        return query_lora;
      case GgufNeed::kNoQueryLora:
        return !query_lora;
      case GgufNeed::kOptional:
        return false;
    }
    throw Error(ErrorCode::kInternal, "a GGUF need of no kind");
  }

  void require(const std::string& name) const {
    HALFQUAD_REQUIRE(names_.contains(name), kBadInput,
                     fmt::format("the checkpoint holds nothing for {}, which llama.cpp needs of a {} model",
                                 quoted(name), model_.architecture));
  }

  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);

  GgufConfig config_;
  GgufFamily family_;
  std::span<const GgufSourceTensor> sources_;
  GgufModel model_;
  std::set<std::string> names_;
  std::map<std::string, std::size_t> experts_;  ///< Name of a stack to its place among the tensors.
};

}  // namespace

std::int64_t GgufRows::source_row(std::int64_t row) const noexcept {
  switch (order) {
    case Order::kSame:
    case Order::kTransposedSlice:
      return row;
    case Order::kInterleaved: {
      const std::int64_t inside = row % head_rows;
      return row - inside + inside % 2 * (head_rows / 2) + inside / 2;
    }
    case Order::kSlice:
      return row / count * head_rows + first + row % count;
  }
  return row;
}

GgufModel make_gguf_model(const boost::json::object& config, std::span<const GgufSourceTensor> sources) {
  return ModelBuilder(config, sources).build();
}

}  // namespace halfquad
