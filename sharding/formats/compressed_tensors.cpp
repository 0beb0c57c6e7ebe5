#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "kernels/float_grid.h"
#include "kernels/row_pack.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/formats/float_rows.h"
#include "sharding/formats/registry.h"
#include "sharding/formats/row_format.h"
#include "sharding/formats/word_rows.h"
#include "sharding/fused_parts.h"
#include "sharding/stored_layer.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::array kWidths = {CodeWidth::k2, CodeWidth::k3, CodeWidth::k4,
                                CodeWidth::k5, CodeWidth::k6, CodeWidth::k8};
constexpr std::array<std::int64_t, 4> kGroups = {16, 32, 64, 128};
constexpr std::array kGrids = {FloatGrid::kNvfp4, FloatGrid::kMxfp4};
constexpr std::string_view kMethod = "compressed-tensors";

std::string little_endian(std::int64_t first, std::int64_t second) {
  std::string bytes;
  for (const std::int64_t value : {first, second}) {
    for (unsigned shift = 0; shift < 64; shift += 8) {
      bytes.push_back(static_cast<char>((static_cast<std::uint64_t>(value) >> shift) & 0xFF));
    }
  }
  return bytes;
}

/// The library's name of how layers of this spec are stored.
std::string_view compression_of(const QuantSpec& spec) {
  if (spec.grid == FloatGrid::kNone) return "pack-quantized";
  return spec.grid == FloatGrid::kNvfp4 ? "nvfp4-pack-quantized" : "mxfp4-pack-quantized";
}

json::object weights_of(const QuantSpec& spec) {
  json::object weights{{"num_bits", whole_bits(spec.width)},
                       {"type", spec.grid == FloatGrid::kNone ? "int" : "float"},
                       {"symmetric", spec.zeros == ZeroKind::kSymmetric}};
  if (spec.group_size == 0) {
    weights["group_size"] = nullptr;
    weights["strategy"] = "channel";
  } else {
    weights["group_size"] = spec.group_size;
    weights["strategy"] = spec.has_tensor_scale() ? "tensor_group" : "group";
  }
  weights["dynamic"] = false;
  weights["actorder"] = nullptr;
  weights["observer"] = nullptr;
  weights["observer_kwargs"] = json::object();
  return weights;
}

json::object group_of(const QuantSpec& spec, json::array targets) {
  return {{"targets", std::move(targets)},
          {"input_activations", nullptr},
          {"output_activations", nullptr},
          {"format", compression_of(spec)},
          {"weights", weights_of(spec)}};
}

/// Of whole numbers in words, and of floating-point numbers in nibbles.
class CompressedRows final : public RowPacker {
 public:
  [[nodiscard]] GridForm form(const QuantSpec& spec) const noexcept override { return of(spec).form(spec); }
  [[nodiscard]] RowCuts cuts(const RowShape& shape) const noexcept override { return of(shape.spec).cuts(shape); }
  [[nodiscard]] std::int64_t least_tile_rows() const noexcept override { return words_.least_tile_rows(); }
  void pack(const RowShape& shape, const StoredRows& rows, const RowPlaces<std::byte>& out) const override {
    of(shape.spec).pack(shape, rows, out);
  }
  void unpack(const RowShape& shape, const RowPlaces<const std::byte>& in, const LoadedRows& rows) const override {
    of(shape.spec).unpack(shape, in, rows);
  }

 private:
  [[nodiscard]] const RowPacker& of(const QuantSpec& spec) const noexcept {
    if (spec.grid == FloatGrid::kNone) return words_;
    return floats_;
  }

  WordRows words_{{WordLayout::kRows, WordLayout::kColumnsDown, false, {}}};
  FloatRows floats_;
};

/// compressed-tensors, whole numbers ("pack-quantized") and floating-point ones: the door into vLLM.
class CompressedTensorsFormat final : public Format {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return kMethod; }

  void adapt(QuantSpec& spec, std::int64_t /*cols*/) const override { want_whole_zeros(spec); }

  [[nodiscard]] std::optional<std::string> why_not(const QuantSpec& spec, std::int64_t rows,
                                                   std::int64_t cols) const override {
    return why_not_rows(name(), {kWidths, kGroups, /*whole_rows=*/true, /*super_blocks=*/false, kGrids}, spec, rows,
                        cols);
  }

  void settle(const Checkpoint& checkpoint, std::vector<Decision>& decisions) const override {
    settle_fused_parts(checkpoint, decisions);
  }
  [[nodiscard]] const RowPacker* packer() const noexcept override { return &packer_; }

  [[nodiscard]] LayerTensors tensors_of(std::string_view module, const QuantSpec& spec, std::int64_t rows,
                                        std::int64_t cols, DType stored) const override {
    const RowShape shape{spec, rows, cols, stored};
    const int bits = whole_bits(spec.width);
    const auto named = [&](std::string_view key) { return fmt::format("{}.{}", module, key); };
    LayerTensors tensors;
    if (spec.grid != FloatGrid::kNone) {
      tensors.codes = {named("weight_packed"), DType::kU8, {rows, cols / 2}};
      tensors.scale = {named("weight_scale"), scale_dtype(spec.grid), {rows, shape.groups_per_row()}};
      if (spec.has_tensor_scale()) tensors.tensor_scale = {named("weight_global_scale"), DType::kF32, {1}};
      return tensors;
    }
    tensors.codes = {named("weight_packed"), DType::kI32, {rows, bit_stream_words(cols, bits)}};
    tensors.scale = {named("weight_scale"), stored, {rows, shape.groups_per_row()}};
    if (spec.zeros != ZeroKind::kSymmetric) {
      tensors.zero = {named("weight_zero_point"), DType::kI32, {bit_stream_words(rows, bits), shape.groups_per_row()}};
    }
    LayerTensors::Constant& extents = tensors.constants.emplace_back();
    extents.tensor.name = named("weight_shape");
    extents.tensor.dtype = DType::kI64;
    extents.tensor.shape = {2};
    extents.bytes = little_endian(rows, cols);
    return tensors;
  }

  [[nodiscard]] json::object config(const Checkpoint& checkpoint, std::span<const Decision> decisions) const override {
    const QuantSpec usual = most_frequent_spec(decisions);
    std::vector<std::pair<QuantSpec, json::array>> others;  // with the modules they are for
    for (const Decision& decision : decisions) {
      if (!decision.quantize() || decision.spec == usual) continue;
      auto found = std::ranges::find(others, decision.spec, &std::pair<QuantSpec, json::array>::first);
      if (found == others.end()) found = others.insert(found, {decision.spec, {}});
      found->second.emplace_back(module_of(checkpoint.tensors()[decision.source].name));
    }
    json::object groups{{"group_0", group_of(usual, {"Linear"})}};
    std::set<std::string_view> compressions{compression_of(usual)};
    for (auto& [spec, modules] : others) {
      groups[fmt::format("group_{}", groups.size())] = group_of(spec, std::move(modules));
      compressions.insert(compression_of(spec));
    }
    json::array ignore;
    for (const std::string& module : unquantized_modules(checkpoint, decisions)) ignore.emplace_back(module);
    return config_with(checkpoint, {{"quant_method", kMethod},
                                    {"format", compressions.size() > 1 ? "mixed-precision" : *compressions.begin()},
                                    {"quantization_status", "compressed"},
                                    {"global_compression_ratio", nullptr},
                                    {"kv_cache_scheme", nullptr},
                                    {"ignore", std::move(ignore)},
                                    {"config_groups", std::move(groups)}});
  }

  [[nodiscard]] bool made(const Checkpoint& checkpoint) const override {
    return !modules_with(checkpoint, kPacked).empty();
  }

  [[nodiscard]] std::vector<StoredLayer> layers(const Checkpoint& checkpoint,
                                                SmallTensorReader& reader) const override {
    std::vector<StoredLayer> layers;
    for (const std::string_view module : modules_with(checkpoint, kPacked)) {
      const LayerTensorFinder finder(checkpoint, module);
      const bool whole = finder.get("weight_packed").dtype != DType::kU8;
      layers.push_back(whole ? layer(checkpoint, reader, module) : float_layer(checkpoint, reader, module));
    }
    return layers;
  }

 private:
  static constexpr std::string_view kPacked = ".weight_packed";

  /// Width and group size follow from the shapes, so that the config's target patterns need not be matched.
  [[nodiscard]] StoredLayer layer(const Checkpoint& checkpoint, SmallTensorReader& reader,
                                  std::string_view module) const {
    const LayerTensorFinder finder(checkpoint, module);
    const SourceTensor& packed = finder.get("weight_packed");
    const SourceTensor& scale = finder.get("weight_scale");
    const SourceTensor& shape = finder.get("weight_shape");
    if (shape.dtype != DType::kI64 || shape.elements() != 2) finder.fail("weight_shape", "it is not two I64");
    std::array<std::int64_t, 2> extents{};
    std::memcpy(extents.data(), reader.read(shape).data(), sizeof extents);
    const auto [rows, cols] = extents;
    if (packed.shape.size() != 2 || scale.shape.size() != 2 || rows < 1 || cols < 1 || packed.shape[0] != rows ||
        scale.shape[1] < 1 || cols % scale.shape[1] != 0) {
      finder.fail("weight_packed", "its shape, the scale's and weight_shape do not belong together");
    }
    QuantSpec spec;
    const auto width = std::ranges::find_if(kWidths, [&, words = packed.shape[1], count = cols](CodeWidth w) {
      return bit_stream_words(count, whole_bits(w)) == words;
    });
    if (width == kWidths.end()) finder.fail("weight_packed", "its rows have no whole number of bits for a code");
    spec.width = *width;
    spec.group_size = scale.shape[1] == 1 ? 0 : cols / scale.shape[1];
    const bool symmetric = finder.look("weight_zero_point") == nullptr;
    spec.zeros = symmetric ? ZeroKind::kSymmetric : ZeroKind::kInteger;
    return stored_row_layer(*this, checkpoint, module, spec, rows, cols, scale.dtype);
  }

  /// Of floating-point codes: the scales' dtype says which.
  [[nodiscard]] StoredLayer float_layer(const Checkpoint& checkpoint, SmallTensorReader& reader,
                                        std::string_view module) const {
    const LayerTensorFinder finder(checkpoint, module);
    const SourceTensor& packed = finder.get("weight_packed");
    const SourceTensor& scale = finder.get("weight_scale");
    const auto* const grid = std::ranges::find(kGrids, scale.dtype, scale_dtype);
    if (grid == kGrids.end()) finder.fail("weight_scale", "it is neither E4M3, for nvfp4, nor U8, for mxfp4");
    if (packed.shape.size() != 2) finder.fail("weight_packed", "it is no matrix");
    QuantSpec spec;
    spec.solver = SolverKind::kAls;
    spec.importance = Importance::kNone;  // for all that can be seen
    spec.grid = *grid;
    spec.group_size = group_size_of(*grid);
    spec.zeros = ZeroKind::kSymmetric;
    StoredLayer layer =
        stored_row_layer(*this, checkpoint, module, spec, packed.shape[0], packed.shape[1] * 2, scale.dtype);
    if (!spec.has_tensor_scale()) return layer;
    std::memcpy(&layer.tensor_scale, reader.read(finder.get("weight_global_scale")).data(), sizeof(float));
    if (!(layer.tensor_scale > 0) || !std::isfinite(layer.tensor_scale)) {
      finder.fail("weight_global_scale", "it is not finite and positive");
    }
    return layer;
  }

  CompressedRows packer_;
};

}  // namespace

const Format& compressed_tensors_format() noexcept {
  static const CompressedTensorsFormat kFormat;
  return kFormat;
}

}  // namespace halfquad
