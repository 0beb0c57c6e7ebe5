#include "sharding/output_catalog.h"

#include <utility>

namespace halfquad {

void OutputCatalog::begin_module(std::string_view name) {
  module_ = module_numbers_.try_emplace(std::string(name), module_numbers_.size()).first->second;
}

std::size_t OutputCatalog::add(TensorShape tensor, OutputTensor content) {
  entries_.push_back({std::move(tensor.name), tensor.dtype, std::move(tensor.shape), 0, content.blocks.total_bytes});
  contents_.push_back(std::move(content));
  modules_.push_back(module_);
  return entries_.size() - 1;
}

void OutputCatalog::add_copy(TensorShape tensor, std::size_t source, std::uint64_t bytes) {
  OutputTensor content;
  content.kind = OutputTensor::Kind::kCopy;
  content.source = source;
  content.blocks = copy_blocks(bytes);
  add(std::move(tensor), std::move(content));
}

void OutputCatalog::add_conversion(TensorShape tensor, std::vector<std::size_t> sources, const Conversion& conversion) {
  OutputTensor content;
  content.kind = OutputTensor::Kind::kConvert;
  content.blocks = conversion.layout(sources.size());
  content.sources = std::move(sources);
  content.conversion = conversion;
  add(std::move(tensor), std::move(content));
}

void OutputCatalog::add_constant(TensorShape tensor, std::string bytes) {
  OutputTensor content;
  content.kind = OutputTensor::Kind::kConstant;
  content.blocks = {bytes.size(), bytes.size(), bytes.size()};
  content.constant = std::move(bytes);
  add(std::move(tensor), std::move(content));
}

std::size_t OutputCatalog::add_codes(TensorShape tensor, const BlockLayout& blocks) {
  return add_part(OutputTensor::Kind::kCodes, std::move(tensor), blocks);
}

std::size_t OutputCatalog::add_tensor_scales(std::string name, std::size_t layers) {
  constexpr std::uint64_t kBytes = sizeof(float);
  return add_part(OutputTensor::Kind::kTensorScale,
                  TensorShape{std::move(name), DType::kF32, {static_cast<std::int64_t>(layers)}},
                  {layers * kBytes, kBytes, kBytes});
}

std::size_t OutputCatalog::add_part(OutputTensor::Kind kind, const std::optional<TensorShape>& tensor,
                                    const BlockLayout& blocks) {
  if (!tensor) return QuantizedTensor::kNoEntry;
  OutputTensor content;
  content.kind = kind;
  content.blocks = blocks;
  return add(*tensor, std::move(content));
}

void OutputCatalog::add_layer(const Format& format, std::size_t source, const SourceTensor& tensor,
                              const QuantSpec& spec, DType stored) {
  const std::int64_t rows = tensor.shape[0];
  const std::int64_t cols = tensor.shape[1];
  const RowPacker* packer = format.packer();
  const RowShape shape{spec, rows, cols, stored};
  QuantizedTensor layer{.source = source,
                        .module = std::string(module_of(tensor.name)),
                        .spec = spec,
                        .rows = rows,
                        .cols = cols,
                        .tiles = packer == nullptr
                                     ? TileGeometry(spec, rows, cols)
                                     : TileGeometry::of_whole_rows(spec, rows, cols, packer->cuts(shape),
                                                                   {TileGeometry::kRowStep, packer->least_tile_rows()}),
                        .packer = packer,
                        .order = {}};
  LayerTensors tensors = format.tensors_of(layer.module, spec, rows, cols, stored);
  const std::int64_t stored_bytes = bytes_of(stored);
  layer.codes = add_part(OutputTensor::Kind::kCodes, tensors.codes, layer.tiles.code_blocks());
  layer.scale = add_part(OutputTensor::Kind::kScale, tensors.scale, layer.tiles.scale_blocks(stored_bytes));
  layer.zero = add_part(OutputTensor::Kind::kZero, tensors.zero, layer.tiles.zero_blocks(stored_bytes));
  constexpr std::uint64_t kBytes = sizeof(float);
  layer.tensor_scale = add_part(OutputTensor::Kind::kTensorScale, tensors.tensor_scale, {kBytes, kBytes, kBytes});
  const std::uint64_t level_bytes = kBytes * static_cast<std::uint64_t>(level_count(spec.grid));
  layer.levels = add_part(OutputTensor::Kind::kLevels, tensors.levels, {level_bytes, level_bytes, level_bytes});
  for (LayerTensors::Constant& constant : tensors.constants) {
    add_constant(std::move(constant.tensor), std::move(constant.bytes));
  }
  quantized_.push_back(std::move(layer));
}

std::uint64_t OutputCatalog::data_bytes() const noexcept {
  std::uint64_t bytes = 0;
  for (const TensorEntry& entry : entries_) bytes += entry.end;
  return bytes;
}

}  // namespace halfquad
