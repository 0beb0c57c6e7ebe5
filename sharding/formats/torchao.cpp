#include <array>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <boost/json/serialize.hpp>
#include <fmt/format.h>

#include "kernels/row_pack.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/formats/registry.h"
#include "sharding/formats/row_format.h"
#include "sharding/formats/word_rows.h"
#include "sharding/fused_parts.h"
#include "sharding/stored_layer.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::array kWidths = {CodeWidth::k4};
constexpr std::array<std::int64_t, 4> kGroups = {32, 64, 128, 256};
constexpr std::array kScaleDTypes = {DType::kBF16, DType::kF16, DType::kF32};  // its kernels compute in BF16
constexpr std::string_view kMethod = "torchao";
constexpr std::string_view kCodesKey = "._weight_qdata";

/// Two codes in a byte, less 8; scale and (8 - z) s transposed.
class Int4Rows final : public RowPacker {
 public:
  [[nodiscard]] GridForm form(const QuantSpec& /*spec*/) const noexcept override {
    return {GridForm::Second::kOffset, 8};
  }
  [[nodiscard]] RowCuts cuts(const RowShape& shape) const noexcept override {
    const RowCut grid = grid_cut(/*transposed=*/true, shape);
    return {RowCut::by_rows(shape.rows, static_cast<std::uint64_t>(shape.cols / 2)), grid, grid};
  }
  [[nodiscard]] std::int64_t least_tile_rows() const noexcept override { return kTransposedTileRows; }

  void pack(const RowShape& shape, const StoredRows& rows, const RowPlaces<std::byte>& out) const override {
    pack_torchao_int4(rows.codes, rows.rows * shape.cols, out.codes.data);
    store_grid(/*transposed=*/true, shape, rows.scale, rows.rows, out.scale);
    store_grid(/*transposed=*/true, shape, rows.second, rows.rows, out.zero);
  }
  void unpack(const RowShape& shape, const RowPlaces<const std::byte>& in, const LoadedRows& rows) const override {
    unpack_torchao_int4(in.codes.data, rows.rows * shape.cols, rows.codes);
    load_grid(/*transposed=*/true, shape, in.scale, rows.rows, rows.scale);
    load_grid(/*transposed=*/true, shape, in.zero, rows.rows, rows.second);
  }
};

/// torchao's Int4Tensor, packing "plain".
class TorchaoFormat final : public Format {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return kMethod; }
  [[nodiscard]] std::span<const DType> scale_dtypes() const noexcept override { return kScaleDTypes; }
  void adapt(QuantSpec& spec, std::int64_t /*cols*/) const override { spec.round_zero = false; }

  [[nodiscard]] std::optional<std::string> why_not(const QuantSpec& spec, std::int64_t rows,
                                                   std::int64_t cols) const override {
    return why_not_rows(name(), {kWidths, kGroups}, spec, rows, cols);
  }

  void settle(const Checkpoint& checkpoint, std::vector<Decision>& decisions) const override {
    settle_fused_parts(checkpoint, decisions);
  }

  [[nodiscard]] const RowPacker* packer() const noexcept override { return &packer_; }

  [[nodiscard]] LayerTensors tensors_of(std::string_view module, const QuantSpec& spec, std::int64_t rows,
                                        std::int64_t cols, DType stored) const override {
    const std::int64_t groups = RowShape{spec, rows, cols, stored}.groups_per_row();
    const auto named = [&](std::string_view key) { return fmt::format("{}.{}", module, key); };
    LayerTensors tensors;
    tensors.codes = {named("_weight_qdata"), DType::kI8, {rows, cols / 2}};
    tensors.scale = {named("_weight_scale"), stored, {groups, rows}};
    tensors.zero = {named("_weight_zero_point"), stored, {groups, rows}};
    return tensors;
  }

  /// Every file names all parameters and what each is: loaders read the metadata of one file, or merge them.
  [[nodiscard]] std::map<std::string, std::string> metadata(const FormatInputs& inputs) const override {
    const std::string dtype = model_dtype(inputs.checkpoint);
    std::map<std::string, std::string> metadata{{"format", "pt"}};
    std::set<std::string_view> names;
    for (const Decision& decision : inputs.decisions) {
      const SourceTensor& tensor = inputs.checkpoint.tensors()[decision.source];
      names.insert(tensor.name);
      metadata[tensor.name] =
          decision.quantize() ? quantized_entry(decision.spec, tensor, dtype) : R"({"_type":"Tensor"})";
    }
    json::array listed;
    for (const std::string_view name : names) listed.emplace_back(name);
    metadata["tensor_names"] = json::serialize(listed);
    return metadata;
  }

  [[nodiscard]] bool too_many_for_one_file(std::span<const TensorEntry> entries) const override {
    constexpr std::uint64_t kMetadataBytesPerTensor = 400;
    return safetensors_header_bytes(entries, {}) + entries.size() * kMetadataBytesPerTensor > kMaxHeaderBytes;
  }

  [[nodiscard]] json::object config(const Checkpoint& checkpoint, std::span<const Decision> decisions) const override {
    json::object settings{
        {"group_size", most_frequent_spec(decisions).group_size},
        {"set_inductor_config", true},
        {"int4_packing_format", {{"_type", "Int4PackingFormat"}, {"_data", "PLAIN"}}},
        {"int4_choose_qparams_algorithm", {{"_type", "Int4ChooseQParamsAlgorithm"}, {"_data", "TINYGEMM"}}}};
    json::array kept;
    for (const std::string& module : unquantized_modules(checkpoint, decisions)) kept.emplace_back(module);
    return config_with(
        checkpoint,
        {{"quant_method", kMethod},
         {"quant_type",
          {{"default", {{"_type", "Int4WeightOnlyConfig"}, {"_version", 2}, {"_data", std::move(settings)}}}}},
         {"modules_to_not_convert", std::move(kept)},
         {"include_input_output_embeddings", false},
         {"untie_embedding_weights", false}});
  }

  [[nodiscard]] bool made(const Checkpoint& checkpoint) const override {
    return !modules_with(checkpoint, kCodesKey).empty();
  }

  [[nodiscard]] std::vector<StoredLayer> layers(const Checkpoint& checkpoint,
                                                SmallTensorReader& /*reader*/) const override {
    std::vector<StoredLayer> layers;
    for (const std::string_view module : modules_with(checkpoint, kCodesKey)) {
      const LayerTensorFinder finder(checkpoint, module);
      const SourceTensor& codes = finder.get("_weight_qdata");
      const SourceTensor& scales = finder.get("_weight_scale");
      if (codes.shape.size() != 2 || scales.shape.size() != 2 || scales.shape[0] < 1 ||
          codes.shape[1] * 2 % scales.shape[0] != 0) {
        finder.fail("_weight_qdata", "its shape and that of the scales do not belong together");
      }
      QuantSpec spec;
      spec.group_size = codes.shape[1] * 2 / scales.shape[0];
      layers.push_back(
          stored_row_layer(*this, checkpoint, module, spec, codes.shape[0], codes.shape[1] * 2, scales.dtype));
    }
    return layers;
  }

 private:
  static std::string quantized_entry(const QuantSpec& spec, const SourceTensor& tensor, const std::string& dtype) {
    const json::object data{{"block_size", {1, spec.group_size}},
                            {"shape", {tensor.shape[0], tensor.shape[1]}},
                            {"activation_dtype", {{"_type", "torch.dtype"}, {"_data", dtype}}}};
    return json::serialize(json::object{
        {"_type", "Int4Tensor"}, {"_data", data}, {"_tensor_data_names", {"qdata", "scale", "zero_point"}}});
  }

  Int4Rows packer_;
};

}  // namespace

const Format& torchao_format() noexcept {
  static const TorchaoFormat kFormat;
  return kFormat;
}

}  // namespace halfquad
