#include <algorithm>
#include <array>
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

constexpr std::array kWidths = {CodeWidth::k4};
constexpr std::array<std::int64_t, 4> kGroups = {16, 32, 64, 128};
constexpr std::array kScaleDTypes = {DType::kF16};
constexpr std::int64_t kCodesPerWord = 8;
constexpr std::string_view kMethod = "awq";

/// AutoAWQ's "gemm" layout: [in, out], eight outputs in a word in an order of its own.
class AwqFormat final : public Format {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return kMethod; }
  [[nodiscard]] std::span<const DType> scale_dtypes() const noexcept override { return kScaleDTypes; }
  void adapt(QuantSpec& spec, std::int64_t /*cols*/) const override { want_whole_zeros(spec); }

  [[nodiscard]] std::optional<std::string> why_not(const QuantSpec& spec, std::int64_t rows,
                                                   std::int64_t cols) const override {
    if (auto reason = why_not_rows(name(), {kWidths, kGroups}, spec, rows, cols)) return reason;
    if (rows % kCodesPerWord != 0)
      return fmt::format("awq needs a multiple of {} outputs, not {}", kCodesPerWord, rows);
    return std::nullopt;
  }

  void settle(const Checkpoint& checkpoint, std::vector<Decision>& decisions) const override {
    settle_fused_parts(checkpoint, decisions);
    const QuantSpec usual = most_frequent_spec(decisions);
    for (const Decision& decision : decisions) {
      HALFQUAD_REQUIRE(
          !decision.quantize() || decision.spec.group_size == usual.group_size, kUsage,
          fmt::format(
              "awq has one group size for the whole model: {} has {}, others {}; give all the same, or leave the "
              "layer out with --skip",
              quoted(checkpoint.tensors()[decision.source].name), decision.spec.group_size, usual.group_size));
    }
  }

  [[nodiscard]] const RowPacker* packer() const noexcept override { return &packer_; }

  [[nodiscard]] LayerTensors tensors_of(std::string_view module, const QuantSpec& spec, std::int64_t rows,
                                        std::int64_t cols, DType stored) const override {
    const RowShape shape{spec, rows, cols, stored};
    const std::int64_t groups = shape.groups_per_row();
    const auto named = [&](std::string_view key) { return fmt::format("{}.{}", module, key); };
    LayerTensors tensors;
    tensors.codes = {named("qweight"), DType::kI32, {cols, rows / kCodesPerWord}};
    tensors.scale = {named("scales"), stored, {groups, rows}};
    tensors.zero = {named("qzeros"), DType::kI32, {groups, rows / kCodesPerWord}};
    return tensors;
  }

  [[nodiscard]] json::object config(const Checkpoint& checkpoint, std::span<const Decision> decisions) const override {
    json::array kept;
    for (const std::string& module : unquantized_modules(checkpoint, decisions)) kept.emplace_back(module);
    return config_with(checkpoint, {{"quant_method", kMethod},
                                    {"bits", 4},
                                    {"group_size", most_frequent_spec(decisions).group_size},
                                    {"zero_point", true},
                                    {"version", "gemm"},
                                    {"modules_to_not_convert", std::move(kept)}});
  }

  [[nodiscard]] bool made(const Checkpoint& checkpoint) const override {
    return quantization_method(checkpoint) == kMethod;
  }

  [[nodiscard]] std::vector<StoredLayer> layers(const Checkpoint& checkpoint,
                                                SmallTensorReader& /*reader*/) const override {
    std::vector<StoredLayer> layers;
    for (const std::string_view module : modules_with(checkpoint, ".qweight")) {
      const LayerTensorFinder finder(checkpoint, module);
      const SourceTensor& codes = finder.get("qweight");
      const SourceTensor& scales = finder.get("scales");
      if (codes.shape.size() != 2 || scales.shape.size() != 2 || scales.shape[0] < 1 ||
          codes.shape[0] % scales.shape[0] != 0) {
        finder.fail("qweight", "its shape and that of the scales do not belong together");
      }
      QuantSpec spec;
      spec.group_size = codes.shape[0] / scales.shape[0];
      spec.zeros = ZeroKind::kInteger;
      layers.push_back(
          stored_row_layer(*this, checkpoint, module, spec, scales.shape[1], codes.shape[0], scales.dtype));
    }
    return layers;
  }

 private:
  WordRows packer_{{WordLayout::kAwq, WordLayout::kAwq, true, {}, /*store_symmetric=*/true}};
};

}  // namespace

const Format& awq_format() noexcept {
  static const AwqFormat kFormat;
  return kFormat;
}

}  // namespace halfquad
