#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "io/safetensors_header.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"
#include "sharding/format.h"
#include "sharding/formats/hqq_config.h"
#include "sharding/formats/hqq_keys.h"
#include "sharding/formats/row_format.h"
#include "sharding/shape_text.h"
#include "sharding/stored_layer.h"

namespace halfquad {
namespace {

/// Any of these names a quantized layer: no other module has a tensor called so.
constexpr std::array<std::string_view, 5> kMarkerKeys = {"W_q", "packing", "unpack_view_dtype", "encoded_state_dict",
                                                         "stores_quant_config"};
constexpr std::array<std::string_view, 19> kLayerKeys = {"W_q",
                                                         "scale",
                                                         "zero",
                                                         "nbits",
                                                         "group_size",
                                                         "axis",
                                                         "shape",
                                                         "packing",
                                                         "unpack_view_dtype",
                                                         "compute_dtype",
                                                         "view_as_float",
                                                         "quant_scale",
                                                         "quant_zero",
                                                         "channel_wise",
                                                         "optimize",
                                                         "round_zero",
                                                         "offload_meta",
                                                         "encoded_state_dict",
                                                         "stores_quant_config"};

struct SplitName {
  std::string_view module, key;
};

SplitName split_name(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return {};
  return {name.substr(0, dot), name.substr(dot + 1)};
}

/// Checks and decodes the keys of one layer.
class LayerReader {
 public:
  LayerReader(const Checkpoint& checkpoint, SmallTensorReader& reader, std::string_view module)
      : checkpoint_(checkpoint), reader_(reader), module_(module) {}

  StoredLayer read() {
    for (const std::string_view key : kLayerKeys) static_cast<void>(tensor(key));
    require_constants();
    QuantSpec spec;
    spec.width = width();
    spec.group_size = integer("group_size", 1, std::int64_t{1} << 40);
    spec.axis = static_cast<int>(integer("axis", 0, 1));
    spec.channel_wise = flag("channel_wise");
    spec.round_zero = flag("round_zero");
    spec.solver = flag("optimize") ? SolverKind::kHqq : SolverKind::kRtn;
    const auto [rows, cols] = shape();
    if (const auto reason = why_not(spec, rows, cols)) {
      fail("shape",
           fmt::format("{} weights do not fit the layer's other keys: {}", shape_text({{rows, cols}}), *reason));
    }
    require_names(packing_of(spec.width));
    const TileGeometry tiles(spec, rows, cols);
    require_codes(tiles);
    const DType stored = require_scales(tiles, spec);
    return {.module = std::string(module_),
            .spec = spec,
            .rows = rows,
            .cols = cols,
            .stored = stored,
            .tiles = tiles,
            .codes = index("W_q"),
            .scale = index("scale"),
            .zero = index("zero"),
            .packer = nullptr,
            .tensors = all()};
  }

 private:
  std::vector<std::size_t> all() const {
    std::vector<std::size_t> indices;
    for (const std::string_view key : kLayerKeys) indices.push_back(index(key));
    return indices;
  }

  [[noreturn]] void fail(std::string_view key, const std::string& what) const {
    const SourceTensor* found = checkpoint_.find(name_of_key(key));
    const std::string file = found == nullptr ? checkpoint_.directory().string()
                                              : checkpoint_.files()[static_cast<std::size_t>(found->file)].name;
    throw Error(ErrorCode::kBadInput, fmt::format("{}: quantized layer {}, key {}: {}", halfquad::quoted(file),
                                                  halfquad::quoted(module_), halfquad::quoted(key), what));
  }

  std::string name_of_key(std::string_view key) const { return fmt::format("{}.{}", module_, key); }

  const SourceTensor& tensor(std::string_view key) const {
    const SourceTensor* found = checkpoint_.find(name_of_key(key));
    if (found == nullptr) fail(key, "the tensor is missing; loaders need it");
    return *found;
  }

  std::size_t index(std::string_view key) const {
    return static_cast<std::size_t>(&tensor(key) - checkpoint_.tensors().data());
  }

  std::string bytes(std::string_view key) const {
    const SourceTensor& found = tensor(key);
    if (found.bytes > SmallTensorReader::kMaxBytes)
      fail(key, fmt::format("{} bytes are too many for such a value", found.bytes));
    return reader_.read(found);
  }

  void require_scalar(std::string_view key) const {
    const SourceTensor& found = tensor(key);
    if (found.shape.size() > 1 || found.elements() != 1) {
      fail(key, fmt::format("a single value is needed, not shape {}", shape_text(found.shape)));
    }
  }

  std::int64_t integer(std::string_view key, std::int64_t least, std::int64_t most) const {
    require_scalar(key);
    const DType dtype = tensor(key).dtype;
    std::int64_t value = 0;
    if (dtype == DType::kI32) {
      std::int32_t narrow = 0;
      std::memcpy(&narrow, bytes(key).data(), sizeof narrow);
      value = narrow;
    } else if (dtype == DType::kI64) {
      std::memcpy(&value, bytes(key).data(), sizeof value);
    } else {
      fail(key, fmt::format("dtype {} where I32 is needed", name_of(dtype)));
    }
    if (value < least || value > most) fail(key, fmt::format("{} is not between {} and {}", value, least, most));
    return value;
  }

  bool flag(std::string_view key) const {
    require_scalar(key);
    const DType dtype = tensor(key).dtype;
    if (dtype != DType::kU8 && dtype != DType::kBool) {
      fail(key, fmt::format("dtype {} where U8 is needed", name_of(dtype)));
    }
    const auto value = static_cast<unsigned char>(bytes(key)[0]);
    if (value > 1) fail(key, fmt::format("{} is neither 0 nor 1", value));
    return value == 1;
  }

  std::string text(std::string_view key) const {
    const SourceTensor& found = tensor(key);
    if (found.dtype != DType::kU8) fail(key, fmt::format("dtype {} where U8 is needed", name_of(found.dtype)));
    if (found.shape.size() != 1) {
      fail(key, fmt::format("text has one dimension, not shape {}", shape_text(found.shape)));
    }
    return bytes(key);
  }

  void require_text(std::string_view key, std::string_view wanted) const {
    const std::string value = text(key);
    if (value != wanted)
      fail(key, fmt::format("{} where {} is needed", halfquad::quoted(value), halfquad::quoted(wanted)));
  }

  CodeWidth width() const {
    if (tensor("nbits").dtype == DType::kF32) {
      require_scalar("nbits");
      float value = 0;
      std::memcpy(&value, bytes("nbits").data(), sizeof value);
      if (value != 1.58F) fail("nbits", fmt::format("{} is no known width; the only fraction is 1.58", value));
      return CodeWidth::k1_58;
    }
    const std::int64_t bits = integer("nbits", 1, 8);
    const auto known = code_width_from_name(std::to_string(bits));
    if (!known) fail("nbits", fmt::format("{} is no known width", bits));
    return *known;
  }

  std::pair<std::int64_t, std::int64_t> shape() const {
    const SourceTensor& found = tensor("shape");
    if (found.dtype != DType::kI64 || found.shape != std::vector<std::int64_t>{2}) {
      fail("shape", fmt::format("I64 of shape [2] is needed, not {} of shape {}", name_of(found.dtype),
                                shape_text(found.shape)));
    }
    std::array<std::int64_t, 2> extents{};
    std::memcpy(extents.data(), bytes("shape").data(), sizeof extents);
    if (extents[0] < 1 || extents[1] < 1 || !element_count(extents)) {
      fail("shape", fmt::format("{} is no possible weight shape", shape_text(extents)));
    }
    return {extents[0], extents[1]};
  }

  void require_constants() const {
    for (const std::string_view key : {"view_as_float", "quant_scale", "quant_zero", "offload_meta"}) {
      if (flag(key)) fail(key, "1 is not supported; only 0 is");
    }
    for (const std::string_view key : {"encoded_state_dict", "stores_quant_config"}) {
      if (!flag(key)) fail(key, "0 contradicts how the layer is stored; 1 is needed");
    }
  }

  void require_names(Packing packing) const {
    require_text("packing", name_of(packing));
    require_text("unpack_view_dtype", packing == Packing::k3Bit32 ? "torch.int32" : "torch.uint8");
    const std::string compute = text("compute_dtype");
    if (compute != "torch.float16" && compute != "torch.bfloat16" && compute != "torch.float32") {
      fail("compute_dtype",
           fmt::format("{} is not torch.float16, torch.bfloat16 or torch.float32", halfquad::quoted(compute)));
    }
  }

  void require_codes(const TileGeometry& tiles) const {
    const SourceTensor& codes = tensor("W_q");
    const DType dtype = hqq_codes_dtype(tiles.packing());
    const std::vector<std::int64_t> wanted = {tiles.packed_rows(), tiles.grouped().cols};
    if (codes.dtype != dtype || codes.shape != wanted) {
      fail("W_q", fmt::format("{} of shape {} is needed, not {} of shape {}", name_of(dtype), shape_text(wanted),
                              name_of(codes.dtype), shape_text(codes.shape)));
    }
  }

  DType require_scales(const TileGeometry& tiles, const QuantSpec& spec) const {
    const DType stored = tensor("scale").dtype;
    for (const std::string_view key : {"scale", "zero"}) {
      const SourceTensor& found = tensor(key);
      if (found.dtype != DType::kF16 && found.dtype != DType::kBF16 && found.dtype != DType::kF32) {
        fail(key, fmt::format("dtype {} where F16, BF16 or F32 is needed", name_of(found.dtype)));
      }
      if (found.dtype != stored) {
        fail(key, fmt::format("dtype {} differs from the scale's {}", name_of(found.dtype), name_of(stored)));
      }
      const std::vector<std::int64_t> wanted = hqq_scale_shape(spec, tiles.scale_count());
      // A single value broadcasts from any shape.
      const bool fits = spec.channel_wise ? found.shape == wanted : found.elements() == 1;
      if (!fits) fail(key, fmt::format("shape {} is needed, not {}", shape_text(wanted), shape_text(found.shape)));
    }
    return stored;
  }

  const Checkpoint& checkpoint_;
  SmallTensorReader& reader_;
  std::string_view module_;
};

std::vector<std::string_view> quantized_modules(const Checkpoint& checkpoint) {
  std::vector<std::string_view> modules;  // in file order, each once
  std::set<std::string_view> seen;
  for (const SourceTensor& tensor : checkpoint.tensors()) {
    const auto [module, key] = split_name(tensor.name);
    const bool marks = std::find(kMarkerKeys.begin(), kMarkerKeys.end(), key) != kMarkerKeys.end();
    if (marks && !module.empty() && seen.insert(module).second) modules.push_back(module);
  }
  return modules;
}

/// The hqq library's own layout: codes packed across the rows of the grouped matrix, and 16 small tensors a layer.
class HqqFormat final : public Format {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "hqq"; }

  [[nodiscard]] std::optional<std::string> why_not(const QuantSpec& spec, std::int64_t rows,
                                                   std::int64_t cols) const override {
    if (spec.grid != FloatGrid::kNone) return why_not_grid(name(), spec.grid);
    return halfquad::why_not(spec, rows, cols);
  }

  [[nodiscard]] LayerTensors tensors_of(std::string_view module, const QuantSpec& spec, std::int64_t rows,
                                        std::int64_t cols, DType stored) const override {
    const TileGeometry tiles(spec, rows, cols);
    const auto named = [&](std::string_view key) { return fmt::format("{}.{}", module, key); };
    const TensorShape scale{named("scale"), stored, hqq_scale_shape(spec, tiles.scale_count())};
    LayerTensors tensors;
    tensors.codes = {named("W_q"), hqq_codes_dtype(tiles.packing()), {tiles.packed_rows(), tiles.grouped().cols}};
    tensors.scale = scale;
    tensors.zero = {named("zero"), scale.dtype, scale.shape};
    for (HqqConstant& constant : hqq_constants(spec, rows, cols, stored)) {
      tensors.constants.push_back(
          {{named(constant.key), constant.dtype, std::move(constant.shape)}, std::move(constant.bytes)});
    }
    return tensors;
  }

  [[nodiscard]] boost::json::object config(const Checkpoint& checkpoint,
                                           std::span<const Decision> decisions) const override {
    return hqq_config(checkpoint, decisions);
  }

  [[nodiscard]] std::vector<std::string> warnings(const FormatInputs& inputs) const override {
    std::vector<std::string> warnings;
    for (const auto& [skipped, module] : skip_conflicts(inputs.checkpoint, inputs.decisions)) {
      warnings.push_back(fmt::format(
          "transformers compares names by substring: its skip entry {} would also hide the quantized {}; skip that one "
          "too, or load the output with another library",
          halfquad::quoted(skipped), halfquad::quoted(module)));
    }
    return warnings;
  }

  [[nodiscard]] bool made(const Checkpoint& checkpoint) const override {
    return !quantized_modules(checkpoint).empty();
  }

  [[nodiscard]] std::vector<StoredLayer> layers(const Checkpoint& checkpoint,
                                                SmallTensorReader& reader) const override {
    std::vector<StoredLayer> layers;
    for (const std::string_view module : quantized_modules(checkpoint)) {
      const std::string weight = fmt::format("{}.weight", module);
      HALFQUAD_REQUIRE(checkpoint.find(weight) == nullptr, kBadInput,
                       fmt::format("{}: layer {} is there both quantized and as the plain tensor {}",
                                   halfquad::quoted(checkpoint.directory().string()), halfquad::quoted(module),
                                   halfquad::quoted(weight)));
      layers.push_back(LayerReader(checkpoint, reader, module).read());
    }
    return layers;
  }
};

}  // namespace

const Format& hqq_format() noexcept {
  static const HqqFormat kFormat;
  return kFormat;
}

}  // namespace halfquad
