#include <array>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "io/json.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/formats/registry.h"
#include "sharding/formats/row_format.h"
#include "sharding/formats/word_rows.h"
#include "sharding/stored_layer.h"

namespace halfquad {
namespace {

namespace json = boost::json;

constexpr std::array kWidths = {CodeWidth::k2, CodeWidth::k3, CodeWidth::k4,
                                CodeWidth::k5, CodeWidth::k6, CodeWidth::k8};
constexpr std::array<std::int64_t, 3> kGroups = {32, 64, 128};
constexpr std::string_view kConfigKey = "quantization";

json::object settings_of(const QuantSpec& spec) {
  return {{"group_size", spec.group_size}, {"bits", whole_bits(spec.width)}, {"mode", "affine"}};
}

/// mlx-lm's config: one setting for most layers, others by module.
json::object quantization(const Checkpoint& checkpoint, std::span<const Decision> decisions) {
  const QuantSpec usual = most_frequent_spec(decisions);
  json::object settings = settings_of(usual);
  for (const Decision& decision : decisions) {
    if (!decision.quantize()) continue;
    const json::object own = settings_of(decision.spec);
    if (own != settings_of(usual)) settings[module_of(checkpoint.tensors()[decision.source].name)] = own;
  }
  return settings;
}

/// Apple's MLX, "affine" mode: w = scale q + bias, codes in a dense bit stream of U32 words.
class MlxFormat final : public Format {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "mlx"; }

  void adapt(QuantSpec& spec, std::int64_t /*cols*/) const override { spec.round_zero = false; }

  [[nodiscard]] std::optional<std::string> why_not(const QuantSpec& spec, std::int64_t rows,
                                                   std::int64_t cols) const override {
    return why_not_rows(name(), {kWidths, kGroups}, spec, rows, cols);
  }

  [[nodiscard]] const RowPacker* packer() const noexcept override { return &packer_; }

  [[nodiscard]] LayerTensors tensors_of(std::string_view module, const QuantSpec& spec, std::int64_t rows,
                                        std::int64_t cols, DType stored) const override {
    const RowShape shape{spec, rows, cols, stored};
    const auto named = [&](std::string_view key) { return fmt::format("{}.{}", module, key); };
    LayerTensors tensors;
    tensors.codes = {named("weight"), DType::kU32, {rows, cols * whole_bits(spec.width) / 32}};
    tensors.scale = {named("scales"), stored, {rows, shape.groups_per_row()}};
    tensors.zero = {named("biases"), stored, {rows, shape.groups_per_row()}};
    return tensors;
  }

  [[nodiscard]] std::map<std::string, std::string> metadata(const FormatInputs& /*inputs*/) const override {
    return {{"format", "mlx"}};
  }

  [[nodiscard]] json::object config(const Checkpoint& checkpoint, std::span<const Decision> decisions) const override {
    json::object config = checkpoint.config().value_or(json::object{});
    const json::object settings = quantization(checkpoint, decisions);
    config[kConfigKey] = settings;
    config["quantization_config"] = settings;
    return config;
  }

  [[nodiscard]] bool made(const Checkpoint& checkpoint) const override {
    return checkpoint.config() && checkpoint.config()->contains(kConfigKey) &&
           checkpoint.config()->at(kConfigKey).is_object();
  }

  [[nodiscard]] std::vector<StoredLayer> layers(const Checkpoint& checkpoint,
                                                SmallTensorReader& /*reader*/) const override {
    const json::object& settings = checkpoint.config()->at(kConfigKey).as_object();
    std::vector<StoredLayer> layers;
    for (const std::string_view module : modules_with(checkpoint, ".scales")) {
      layers.push_back(layer(checkpoint, module, settings));
    }
    return layers;
  }

 private:
  [[nodiscard]] StoredLayer layer(const Checkpoint& checkpoint, std::string_view module,
                                  const json::object& settings) const {
    const json::value* own = settings.if_contains(module);
    const json::object& chosen = own != nullptr && own->is_object() ? own->get_object() : settings;
    const LayerTensorFinder finder(checkpoint, module);
    QuantSpec spec;
    const auto width = code_width_from_name(std::to_string(config_integer(chosen, "bits", 2, 8, kConfigKey)));
    if (!width) finder.fail("weight", "config.json gives it a width that MLX does not have");
    spec.width = *width;
    spec.group_size = config_integer(chosen, "group_size", 1, 1 << 20, kConfigKey);
    const SourceTensor& scales = finder.get("scales");
    if (scales.shape.size() != 2) finder.fail("scales", "it has not two dimensions");
    return stored_row_layer(*this, checkpoint, module, spec, scales.shape[0], scales.shape[1] * spec.group_size,
                            scales.dtype);
  }

  WordRows packer_{{WordLayout::kRows, {}, false, {GridForm::Second::kOffset, 0}}};
};

}  // namespace

const Format& mlx_format() noexcept {
  static const MlxFormat kFormat;
  return kFormat;
}

}  // namespace halfquad
