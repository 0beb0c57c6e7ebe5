#include "io/gguf.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "io/gguf_files.h"
#include "io/gguf_types.h"
#include "kernels/ggml_k_quants.h"
#include "runtime/check.h"
#include "runtime/error.h"
#include "runtime/text.h"
#include "sharding/block_type.h"
#include "sharding/formats/gguf_copy.h"
#include "sharding/formats/gguf_mixture.h"
#include "sharding/formats/gguf_model.h"
#include "sharding/formats/gguf_open.h"
#include "sharding/formats/gguf_order.h"
#include "sharding/formats/gguf_rows.h"
#include "sharding/formats/gguf_tensor_scale.h"
#include "sharding/formats/gguf_tokenizer.h"
#include "sharding/formats/registry.h"
#include "sharding/gguf_source.h"
#include "sharding/output_layout.h"
#include "sharding/stored_layer.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::array kScaleDTypes = {DType::kF16};

/// Its tensors' sources count the checkpoint's, and so the decisions.
GgufModel model_of(const Checkpoint& checkpoint) {
  HALFQUAD_REQUIRE(checkpoint.gguf() != nullptr || checkpoint.config(), kBadInput,
                   "the checkpoint has no config.json, from which a GGUF file takes the model's settings");
  return gguf_model_of(checkpoint);
}

/// Empty where the model has its tokenizer already.
GgufTokenizer tokenizer_of(const FormatInputs& inputs, const GgufModel& model) {
  if (inputs.checkpoint.gguf() != nullptr) return {};
  const auto text = [&](std::string_view name) -> std::optional<std::string> {
    const auto found = inputs.texts.find(name);
    return found == inputs.texts.end() ? std::nullopt : std::optional(found->second);
  };
  return make_gguf_tokenizer(*inputs.checkpoint.config(),
                             {.tokenizer_json = text("tokenizer.json"),
                              .tokenizer_model = text("tokenizer.model"),
                              .tokenizer_config = text("tokenizer_config.json"),
                              .added_tokens = text("added_tokens.json"),
                              .generation_config = text("generation_config.json"),
                              .chat_template_jinja = text("chat_template.jinja"),
                              .chat_template_json = text("chat_template.json")},
                             model.vocabulary);
}

std::uint32_t plain_type(DType dtype) {
  if (dtype == DType::kF16) return ggml_type(GgmlTypeId::kF16).id;
  return ggml_type(dtype == DType::kBF16 ? GgmlTypeId::kBF16 : GgmlTypeId::kF32).id;
}

/// Outermost first, as everywhere else here.
std::vector<std::int64_t> shape_of(const GgufModelTensor& tensor) { return {tensor.dims.rbegin(), tensor.dims.rend()}; }

bool has_whole_rows(const GgufModelTensor& tensor) { return has_whole_rows(order_of(tensor.rows)); }

/// Whether mixtures give it a type: linear layers, and what stands at both ends of the model.
bool is_mixed(const GgufModelTensor& tensor) {
  return tensor.kind == GgufTensorKind::kLinear || tensor.name == "token_embd.weight" || tensor.name == "output.weight";
}

/// Adds a tensor of the model to the catalog.
class GgufFiller {
 public:
  GgufFiller(const Format& format, OutputCatalog& catalog, const FormatInputs& inputs)
      : format_(format), catalog_(catalog), inputs_(inputs) {}

  void add(const GgufModelTensor& tensor) const {
    catalog_.begin_module(tensor.name);
    if (!tensor.values.empty()) {
      std::string bytes(tensor.values.size() * sizeof(float), '\0');
      std::memcpy(bytes.data(), tensor.values.data(), bytes.size());
      catalog_.add_constant({tensor.name, DType::kF32, shape_of(tensor)}, std::move(bytes));
    } else if (quantizes(tensor)) {
      add_quantized(tensor);
    } else if (tensor.stored_as) {
      add_copy(tensor);
    } else {
      add_plain(tensor);
    }
  }

 private:
  [[nodiscard]] const Decision& decision(std::size_t source) const { return inputs_.decisions[source]; }
  [[nodiscard]] const SourceTensor& source(std::size_t index) const {
    return inputs_.checkpoint.tensors()[decision(index).source];
  }

  /// All its parts, in one type, with their rows whole.
  [[nodiscard]] bool quantizes(const GgufModelTensor& tensor) const {
    if (!has_whole_rows(tensor)) return false;
    const QuantSpec& first = decision(tensor.sources.front()).spec;
    return std::ranges::all_of(
        tensor.sources, [&](std::size_t index) { return decision(index).quantize() && decision(index).spec == first; });
  }

  void add_quantized(const GgufModelTensor& tensor) const {
    const QuantSpec& spec = decision(tensor.sources.front()).spec;
    const std::vector<std::int64_t>& shape = source(tensor.sources.front()).shape;
    const RowShape rows{spec, shape[0], shape[1], inputs_.stored};
    RowCuts cuts = format_.packer()->cuts(rows);
    TileGeometry::TileRows tile_rows;
    if (tensor.rows.head_rows > 0) tile_rows.step = std::lcm(tile_rows.step, tensor.rows.head_rows);
    const TileGeometry first = TileGeometry::of_whole_rows(spec, shape[0], shape[1], cuts, tile_rows);
    const std::uint64_t part_bytes = cuts.codes.total_bytes();
    const BlockLayout blocks{part_bytes * tensor.sources.size(), part_bytes, first.code_blocks().block_bytes};
    std::vector<std::int64_t> stored_shape = shape_of(tensor);
    stored_shape.back() = static_cast<std::int64_t>(cuts.codes.unit_bytes);
    const std::size_t codes = catalog_.add_codes({tensor.name, DType::kU8, std::move(stored_shape)}, blocks);
    const bool scaled = spec.has_tensor_scale() && decision(tensor.sources.front()).unscaled.empty();
    const std::size_t scales = scaled ? catalog_.add_tensor_scales(gguf_scale_name(tensor.name), tensor.sources.size())
                                      : QuantizedTensor::kNoEntry;
    std::uint64_t scale_at = 0;
    for (const std::size_t index : tensor.sources) {
      catalog_.add_layer({.source = decision(index).source,
                          .module = std::string(module_of(source(index).name)),
                          .spec = spec,
                          .rows = shape[0],
                          .cols = shape[1],
                          .tiles = TileGeometry::of_whole_rows(spec, shape[0], shape[1], cuts, tile_rows),
                          .codes = codes,
                          .tensor_scale = scales,
                          .tensor_scale_form = scaled ? TensorScaleForm::kFactor : TensorScaleForm::kNone,
                          .tensor_scale_at = scale_at,
                          .packer = format_.packer(),
                          .order = order_of(tensor.rows)});
      cuts.codes.start += part_bytes;
      scale_at += sizeof(float);
    }
  }

  /// Byte for byte; experts, which are sources of their own, follow each other in the file.
  void add_copy(const GgufModelTensor& tensor) const {
    const GgmlType& type = *find_ggml_type(*tensor.stored_as);
    TensorShape shape{tensor.name, gguf_plain_dtype(type.id).value_or(DType::kU8), shape_of(tensor)};
    if (type.block_elements > 1) shape.shape.back() = tensor.dims[0] / type.block_elements * type.block_bytes;
    catalog_.add_copy(std::move(shape), decision(tensor.sources.front()).source, ggml_bytes(type, tensor.dims).value());
  }

  void add_plain(const GgufModelTensor& tensor) const {
    const SourceTensor& first = source(tensor.sources.front());
    const bool f32 = tensor.kind == GgufTensorKind::kF32 || first.dtype == DType::kF64;
    const DType to = f32 ? DType::kF32 : first.dtype;
    HALFQUAD_REQUIRE(is_float_source(first.dtype), kBadInput,
                     fmt::format("tensor {} is {}, which GGUF cannot hold", quoted(first.name), name_of(first.dtype)));
    const bool same = to == first.dtype && tensor.rows.order == GgufRows::Order::kSame && tensor.add == 0;
    if (same && tensor.sources.size() == 1) {
      catalog_.add_copy({tensor.name, to, shape_of(tensor)}, decision(tensor.sources.front()).source, first.bytes);
      return;
    }
    Conversion conversion;
    conversion.to = to;
    conversion.add = tensor.add;
    conversion.order = order_of(tensor.rows);
    const bool vector = first.shape.size() < 2;
    // A vector that is reordered has its elements for rows.
    const bool lines = !vector || conversion.order.kind != RowOrder::Kind::kSame;
    conversion.rows = lines ? first.shape[0] : 1;
    conversion.cols = first.elements() / std::max<std::int64_t>(1, conversion.rows);
    std::vector<std::size_t> sources;
    for (const std::size_t index : tensor.sources) sources.push_back(decision(index).source);
    catalog_.add_conversion({tensor.name, to, shape_of(tensor)}, std::move(sources), conversion);
  }

  const Format& format_;
  OutputCatalog& catalog_;
  const FormatInputs& inputs_;
};

/// llama.cpp's file: one tensor of blocks a layer, all experts of a layer in one, and everything about the model in the
/// header.
class GgufFormat final : public Format {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "gguf"; }
  [[nodiscard]] Container container() const noexcept override { return Container::kGguf; }
  [[nodiscard]] std::span<const DType> scale_dtypes() const noexcept override { return kScaleDTypes; }
  [[nodiscard]] bool keeps_order() const noexcept override { return true; }

  void adapt(QuantSpec& spec, std::int64_t cols) const override {
    spec.round_zero = false;
    if (spec.grid != FloatGrid::kNone) return;
    if (!spec.super_blocks) {
      if (spec.width == CodeWidth::k8) spec.zeros = ZeroKind::kSymmetric;  // Q8_0 is the only type of 8 bits
      return;
    }
    const BlockType* type = block_type_of(spec);
    if (type == nullptr) return;  // why_not() says so
    if (cols % kGgmlSuperBlock != 0) type = &block_type(type->fallback);
    type->apply_to(spec);
  }

  [[nodiscard]] std::optional<std::string> why_not(const QuantSpec& spec, std::int64_t rows,
                                                   std::int64_t cols) const override {
    return why_not_gguf_rows(spec, rows, cols);
  }

  [[nodiscard]] std::map<std::string, SpecOverride, std::less<>> mixture(std::string_view mixture,
                                                                         const Checkpoint& checkpoint) const override {
    const GgufModel model = model_of(checkpoint);
    std::vector<std::string> names;
    for (const GgufModelTensor& tensor : model.tensors) names.push_back(tensor.name);
    const auto types = gguf_mixture(mixture, model.keys, names);
    std::map<std::string, SpecOverride, std::less<>> specs;
    for (const GgufModelTensor& tensor : model.tensors) {
      if (!has_whole_rows(tensor) || !is_mixed(tensor)) continue;
      for (const std::size_t source : tensor.sources) {
        block_type(types.at(tensor.name)).apply_to(specs[checkpoint.tensors()[source].name]);
      }
    }
    return specs;
  }

  /// What llama.cpp has no use for, or wants in another shape, is not quantized, whatever the rules say.
  void settle(const Checkpoint& checkpoint, std::vector<Decision>& decisions) const override {
    const GgufModel model = model_of(checkpoint);
    const auto keep = [&](std::size_t source, std::string why) {
      Decision& decision = decisions[source];
      if (!decision.quantize()) return;
      decision.keep = KeepReason::kFormat;
      decision.why = std::move(why);
    };
    for (const GgufModel::Dropped& dropped : model.dropped) {
      keep(dropped.source, "not in a GGUF file: " + dropped.reason);
    }
    for (const GgufModelTensor& tensor : model.tensors) {
      if (tensor.sources.empty() || has_whole_rows(tensor)) continue;
      for (const std::size_t source : tensor.sources) {
        keep(source, fmt::format("llama.cpp wants it divided, as {} and another", tensor.name));
      }
    }
    settle_tensor_scales(model, decisions);
    for (const GgufModelTensor& tensor : model.tensors) settle_experts(checkpoint, tensor, decisions);
  }

  [[nodiscard]] const RowPacker* packer() const noexcept override { return &gguf_rows(); }

  [[nodiscard]] LayerTensors tensors_of(std::string_view module, const QuantSpec& spec, std::int64_t rows,
                                        std::int64_t cols, DType stored) const override {
    LayerTensors tensors;
    const RowCuts cuts = packer()->cuts({spec, rows, cols, stored});
    tensors.codes = {
        fmt::format("{}.weight", module), DType::kU8, {rows, static_cast<std::int64_t>(cuts.codes.unit_bytes)}};
    return tensors;
  }

  [[nodiscard]] std::vector<std::string> wanted_texts(const Checkpoint& /*checkpoint*/) const override {
    return {"tokenizer.json",      "tokenizer.model",        "tokenizer_config.json", "added_tokens.json",
            "chat_template.jinja", "generation_config.json", "chat_template.json"};
  }

  void fill(OutputCatalog& catalog, const FormatInputs& inputs) const override {
    const GgufFiller filler(*this, catalog, inputs);
    for (const GgufModelTensor& tensor : model_of(inputs.checkpoint).tensors) filler.add(tensor);
  }

  [[nodiscard]] std::string file_name(std::size_t index, std::size_t count) const override {
    return count == 1 ? "model.gguf" : fmt::format("model-{:05}-of-{:05}.gguf", index + 1, count);
  }

  [[nodiscard]] bool too_many_for_one_file(std::span<const TensorEntry> /*entries*/) const override { return false; }

  [[nodiscard]] FileImage image(const FormatInputs& inputs, const OutputLayout& layout,
                                const OutputFile& file) const override {
    const GgufModel model = model_of(inputs.checkpoint);
    GgufHeader header;
    const bool first = &file == layout.files().data();
    if (first) {
      header.keys = model.keys;
      set_own_keys(header.keys, inputs);
      for (GgufKey& key : tokenizer_of(inputs, model).keys) header.keys.push_back(std::move(key));
    }
    if (inputs.checkpoint.gguf() != nullptr) {
      header.alignment = inputs.checkpoint.gguf()->alignment;
      if (!first && header.alignment != kGgufAlignment) {
        header.keys.push_back({std::string(kGgufAlignmentKey), header.alignment});
      }
    }
    if (layout.files().size() > 1) {
      const auto number = static_cast<std::uint16_t>(&file - layout.files().data());
      header.keys.push_back({"split.no", number});
      header.keys.push_back({"split.count", static_cast<std::uint16_t>(layout.files().size())});
      header.keys.push_back({"split.tensors.count", static_cast<std::int32_t>(layout.entries().size())});
    }
    std::map<std::string_view, const GgufModelTensor*> by_name;
    for (const GgufModelTensor& tensor : model.tensors) by_name[tensor.name] = &tensor;
    std::map<std::size_t, const QuantizedTensor*> layers;
    for (const QuantizedTensor& layer : layout.quantized()) layers[layer.codes] = &layer;
    for (std::size_t entry = file.begin; entry < file.end; ++entry) {
      const TensorEntry& tensor = layout.entries()[entry];
      if (layout.contents()[entry].kind == OutputTensor::Kind::kTensorScale) {
        header.tensors.push_back({tensor.name, tensor.shape, ggml_type(GgmlTypeId::kF32).id, 0});
        continue;
      }
      const GgufModelTensor& known = *by_name.at(tensor.name);
      const auto layer = layers.find(entry);
      const std::uint32_t type = layer == layers.end() ? known.stored_as.value_or(plain_type(tensor.dtype))
                                                       : gguf_type_of(layer->second->spec).id;
      header.tensors.push_back({tensor.name, known.dims, type, 0});
    }
    return gguf_image(header);
  }

  [[nodiscard]] json::object config(const Checkpoint& checkpoint,
                                    std::span<const Decision> /*decisions*/) const override {
    return checkpoint.config().value_or(json::object{});
  }

  [[nodiscard]] std::vector<std::string> warnings(const FormatInputs& inputs) const override {
    const GgufModel model = model_of(inputs.checkpoint);
    std::vector<std::string> warnings = model.warnings;
    for (std::string& warning : tokenizer_of(inputs, model).warnings) warnings.push_back(std::move(warning));
    std::set<std::string_view> notes;
    for (const Decision& decision : inputs.decisions) {
      if (decision.quantize() && !decision.unscaled.empty() && notes.insert(decision.unscaled).second) {
        warnings.push_back(decision.unscaled);
      }
    }
    std::map<std::string, std::size_t> dropped;
    for (const GgufModel::Dropped& one : model.dropped) ++dropped[one.reason];
    for (const auto& [reason, count] : dropped) {
      warnings.push_back(fmt::format("{} tensors are not in the GGUF file: {}", count, reason));
    }
    return warnings;
  }

  [[nodiscard]] bool keeps_names() const noexcept override { return false; }

  [[nodiscard]] std::optional<OpenedModel> open(FileSystem& fs, const std::filesystem::path& path) const override {
    if (!find_gguf_model(fs, path)) return std::nullopt;
    return open_gguf_output(*this, fs, path);
  }

  [[nodiscard]] bool made(const Checkpoint& /*checkpoint*/) const override { return false; }
  [[nodiscard]] std::vector<StoredLayer> layers(const Checkpoint& /*checkpoint*/,
                                                SmallTensorReader& /*reader*/) const override {
    return {};
  }

 private:
  /// Experts are one tensor, so all of a layer are quantized alike or none is.
  static void settle_experts(const Checkpoint& checkpoint, const GgufModelTensor& tensor,
                             std::vector<Decision>& decisions) {
    const auto kept =
        std::ranges::find_if(tensor.sources, [&](std::size_t source) { return !decisions[source].quantize(); });
    for (const std::size_t source : tensor.sources) {
      Decision& decision = decisions[source];
      if (kept != tensor.sources.end() && decision.quantize()) {
        decision.keep = KeepReason::kFormat;
        decision.why = fmt::format("{}, which is in the same tensor of a GGUF file, is not quantized",
                                   quoted(checkpoint.tensors()[decisions[*kept].source].name));
      }
      const Decision& first = decisions[tensor.sources.front()];
      HALFQUAD_REQUIRE(
          !decision.quantize() || decision.spec == first.spec, kUsage,
          fmt::format("{} and {} have different settings, but are one tensor of a GGUF file; give both the "
                      "same with a rule",
                      quoted(checkpoint.tensors()[first.source].name),
                      quoted(checkpoint.tensors()[decision.source].name)));
    }
  }

  /// From the config alone: the folder may have another name on another node.
  static std::string model_name(const json::object& config) {
    for (const char* key : {"_name_or_path", "model_type"}) {
      const json::value* value = config.if_contains(key);
      if (value == nullptr || !value->is_string() || value->get_string().empty()) continue;
      const std::string text(value->get_string());
      const std::string last = text.substr(text.find_last_of('/') + 1);
      if (!last.empty()) return last;
    }
    return "model";
  }

  static void set_own_keys(std::vector<GgufKey>& keys, const FormatInputs& inputs) {
    if (inputs.checkpoint.gguf() == nullptr) keys.push_back({"general.name", model_name(*inputs.checkpoint.config())});
    set_gguf_key(keys, {"general.file_type", gguf_file_type(inputs.decisions)});
    set_gguf_key(keys, {"general.quantization_version", std::uint32_t{2}});
  }
};

}  // namespace

const Format& gguf_format() noexcept {
  static const GgufFormat kFormat;
  return kFormat;
}

}  // namespace halfquad
