#include <array>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

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

constexpr std::array kWidths = {CodeWidth::k2, CodeWidth::k3, CodeWidth::k4, CodeWidth::k8};
constexpr std::array<std::int64_t, 0> kAnyGroup = {};
constexpr std::array kScaleDTypes = {DType::kF16};
constexpr std::int64_t kOutputStep = 32;  // what loaders ask of both dimensions
constexpr std::string_view kMethod = "gptq";

/// Group of every input, in order, as I32.
std::string group_index(std::int64_t cols, std::int64_t group_size) {
  std::string bytes;
  bytes.reserve(static_cast<std::size_t>(cols) * sizeof(std::int32_t));
  for (std::int64_t k = 0; k < cols; ++k) {
    const auto group = static_cast<std::uint32_t>(k / group_size);
    for (unsigned shift = 0; shift < 32; shift += 8) bytes.push_back(static_cast<char>((group >> shift) & 0xFF));
  }
  return bytes;
}

json::object settings_of(const QuantSpec& spec) {
  return {{"bits", whole_bits(spec.width)}, {"group_size", spec.group_size == 0 ? -1 : spec.group_size}};
}

std::string exactly(std::string_view module) {
  std::string pattern;
  for (const char c : module) pattern += c == '.' ? std::string("\\.") : std::string(1, c);
  return "^" + pattern + "$";
}

/// GPTQ's layout, version 2: zeros as they are (version 1 stores them less one, so that 0 wraps around).
class GptqFormat final : public Format {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return kMethod; }
  [[nodiscard]] std::span<const DType> scale_dtypes() const noexcept override { return kScaleDTypes; }
  void adapt(QuantSpec& spec, std::int64_t /*cols*/) const override { want_whole_zeros(spec); }

  [[nodiscard]] std::optional<std::string> why_not(const QuantSpec& spec, std::int64_t rows,
                                                   std::int64_t cols) const override {
    if (auto reason = why_not_rows(name(), {kWidths, kAnyGroup, /*whole_rows=*/true}, spec, rows, cols)) return reason;
    if (rows % kOutputStep != 0 || cols % kOutputStep != 0) {
      return fmt::format("gptq needs multiples of {} inputs and outputs, not {} and {}", kOutputStep, cols, rows);
    }
    return std::nullopt;
  }

  void settle(const Checkpoint& checkpoint, std::vector<Decision>& decisions) const override {
    settle_fused_parts(checkpoint, decisions);
  }

  [[nodiscard]] const RowPacker* packer() const noexcept override { return &packer_; }

  [[nodiscard]] LayerTensors tensors_of(std::string_view module, const QuantSpec& spec, std::int64_t rows,
                                        std::int64_t cols, DType stored) const override {
    const RowShape shape{spec, rows, cols, stored};
    const int bits = whole_bits(spec.width);
    const std::int64_t groups = shape.groups_per_row();
    const auto named = [&](std::string_view key) { return fmt::format("{}.{}", module, key); };
    LayerTensors tensors;
    tensors.codes = {named("qweight"), DType::kI32, {bit_stream_words(cols, bits), rows}};
    tensors.scale = {named("scales"), stored, {groups, rows}};
    const TensorShape zeros{named("qzeros"), DType::kI32, {groups, bit_stream_words(rows, bits)}};
    LayerTensors::Constant& index = tensors.constants.emplace_back();
    index.tensor.name = named("g_idx");
    index.tensor.dtype = DType::kI32;
    index.tensor.shape = {cols};
    index.bytes = group_index(cols, shape.group_elems());
    tensors.zero = zeros;
    return tensors;
  }

  [[nodiscard]] json::object config(const Checkpoint& checkpoint, std::span<const Decision> decisions) const override {
    const QuantSpec usual = most_frequent_spec(decisions);
    json::object dynamic;  // what differs: "+:" other settings, "-:" not quantized
    for (const std::string& module : unquantized_modules(checkpoint, decisions)) {
      if (module != "lm_head") dynamic["-:" + exactly(module)] = json::object();
    }
    for (const Decision& decision : decisions) {
      if (!decision.quantize() || settings_of(decision.spec) == settings_of(usual)) continue;
      dynamic["+:" + exactly(module_of(checkpoint.tensors()[decision.source].name))] = settings_of(decision.spec);
    }
    json::object quantization{{"quant_method", kMethod}};
    for (const auto& [key, value] : settings_of(usual)) quantization[key] = value;
    quantization["desc_act"] = false;
    quantization["sym"] = usual.zeros == ZeroKind::kSymmetric;
    quantization["lm_head"] = quantizes_lm_head(checkpoint, decisions);
    quantization["checkpoint_format"] = "gptq_v2";
    quantization["pack_dtype"] = "int32";
    quantization["dynamic"] = std::move(dynamic);
    quantization["meta"] = json::object();
    return config_with(checkpoint, std::move(quantization));
  }

  [[nodiscard]] bool made(const Checkpoint& checkpoint) const override {
    return quantization_method(checkpoint) == kMethod;
  }

  [[nodiscard]] std::vector<StoredLayer> layers(const Checkpoint& checkpoint,
                                                SmallTensorReader& /*reader*/) const override {
    const json::object& config = checkpoint.config()->at("quantization_config").as_object();
    const json::value* version = config.if_contains("checkpoint_format");
    HALFQUAD_REQUIRE(version != nullptr && *version == "gptq_v2", kBadInput,
                     "config.json: only checkpoint_format \"gptq_v2\" can be read, whose zeros are stored as they are");
    std::vector<StoredLayer> layers;
    for (const std::string_view module : modules_with(checkpoint, ".qweight"))
      layers.push_back(layer(checkpoint, module));
    return layers;
  }

 private:
  [[nodiscard]] StoredLayer layer(const Checkpoint& checkpoint, std::string_view module) const {
    const LayerTensorFinder finder(checkpoint, module);
    const SourceTensor& codes = finder.get("qweight");
    const SourceTensor& scales = finder.get("scales");
    const SourceTensor& index = finder.get("g_idx");
    if (codes.shape.size() != 2 || scales.shape.size() != 2 || index.shape.size() != 1 || scales.shape[0] < 1 ||
        index.shape[0] % scales.shape[0] != 0) {
      finder.fail("qweight", "its shape, the scales' and g_idx do not belong together");
    }
    const std::int64_t cols = index.shape[0];
    QuantSpec spec;
    spec.zeros = ZeroKind::kInteger;
    spec.group_size = scales.shape[0] == 1 ? 0 : cols / scales.shape[0];
    const auto* const width = std::ranges::find_if(
        kWidths, [&](CodeWidth candidate) { return bit_stream_words(cols, whole_bits(candidate)) == codes.shape[0]; });
    if (width == kWidths.end()) finder.fail("qweight", "its columns have no whole number of bits for a code");
    spec.width = *width;
    return stored_row_layer(*this, checkpoint, module, spec, codes.shape[1], cols, scales.dtype);
  }

  WordRows packer_{{WordLayout::kRowsDown, WordLayout::kColumns, true, {}, /*store_symmetric=*/true}};
};

}  // namespace

const Format& gptq_format() noexcept {
  static const GptqFormat kFormat;
  return kFormat;
}

}  // namespace halfquad
