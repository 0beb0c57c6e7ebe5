#include "sharding/format.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "runtime/error.h"
#include "runtime/text.h"
#include "sharding/formats/registry.h"
#include "sharding/output_layout.h"

namespace halfquad {

std::span<const DType> Format::scale_dtypes() const noexcept {
  static constexpr std::array kAll = {DType::kF16, DType::kBF16, DType::kF32};
  return kAll;
}

void add_kept(OutputCatalog& catalog, std::size_t source, const SourceTensor& tensor) {
  if (tensor.decoder == nullptr) {
    return catalog.add_copy({tensor.name, tensor.dtype, tensor.shape}, source, tensor.bytes);
  }
  Conversion conversion;
  conversion.to = tensor.kept_as.value_or(tensor.dtype);
  conversion.rows = tensor.shape.size() < 2 ? 1 : tensor.shape[0];
  conversion.cols = conversion.rows == 0 ? 0 : tensor.elements() / conversion.rows;
  catalog.add_conversion({tensor.name, conversion.to, tensor.shape}, {source}, conversion);
}

void Format::fill(OutputCatalog& catalog, const FormatInputs& inputs) const {
  for (const Decision& decision : inputs.decisions) {
    const SourceTensor& tensor = inputs.checkpoint.tensors()[decision.source];
    // Not module_of(): a bias is of the layer too.
    catalog.begin_module(std::string_view(tensor.name).substr(0, tensor.name.rfind('.')));
    if (decision.quantize()) {
      catalog.add_layer(*this, decision.source, tensor, decision.spec, inputs.stored);
    } else {
      add_kept(catalog, decision.source, tensor);
    }
  }
}

std::map<std::string, SpecOverride, std::less<>> Format::mixture(std::string_view mixture,
                                                                 const Checkpoint& /*checkpoint*/) const {
  throw Error(ErrorCode::kUsage, fmt::format("--mixture {}: {} has no mixtures; gguf has", quoted(mixture), name()));
}

std::map<std::string, std::string> Format::metadata(const FormatInputs& /*inputs*/) const { return {{"format", "pt"}}; }

std::string Format::file_name(std::size_t index, std::size_t count) const {
  return count == 1 ? kWeightsName : fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, count);
}

bool Format::too_many_for_one_file(std::span<const TensorEntry> entries) const {
  return safetensors_header_bytes(entries, {{"format", "pt"}}) > kMaxHeaderBytes;
}

FileImage Format::image(const FormatInputs& inputs, const OutputLayout& layout, const OutputFile& file) const {
  return safetensors_image(layout.entries_of(file), metadata(inputs));
}

std::span<const Format* const> formats() {
  static const std::array kFormats = {&hqq_format(),     &mlx_format(), &compressed_tensors_format(),
                                      &torchao_format(), &awq_format(), &gptq_format(),
                                      &gguf_format(),    &hdf5_format()};
  return kFormats;
}

const Format* format_named(std::string_view name) noexcept {
  const auto found = std::ranges::find(formats(), name, &Format::name);
  return found == formats().end() ? nullptr : *found;
}

}  // namespace halfquad
