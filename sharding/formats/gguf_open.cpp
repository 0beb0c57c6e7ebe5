#include "sharding/formats/gguf_open.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "io/gguf_files.h"
#include "io/gguf_types.h"
#include "runtime/error.h"
#include "runtime/text.h"
#include "sharding/block_type.h"
#include "sharding/formats/gguf_tensor_scale.h"
#include "sharding/formats/row_format.h"
#include "sharding/gguf_source.h"

namespace halfquad {
namespace {

std::int64_t elements_of(const GgufTensor& tensor) {
  return std::accumulate(tensor.dims.begin(), tensor.dims.end(), std::int64_t{1}, std::multiplies<>());
}

/// Of a type of blocks that these outputs have.
std::optional<QuantSpec> spec_of(const GgufTensor& tensor) {
  const auto type =
      std::ranges::find(block_types(), tensor.type, [](const BlockType& known) { return ggml_type(known.id).id; });
  if (type == block_types().end() || elements_of(tensor) == 0) return std::nullopt;
  QuantSpec spec;
  type->apply_to(spec);
  return spec;
}

SourceTensor stored_tensor(const GgufTensor& tensor, const GgufFiles::Place& place, const SourceFile& file) {
  SourceTensor stored;
  stored.name = tensor.name;
  stored.file = place.file;
  stored.offset = place.offset;
  stored.bytes = tensor.bytes();
  stored.shape.assign(tensor.dims.rbegin(), tensor.dims.rend());
  if (spec_of(tensor)) {
    const std::int64_t rows = elements_of(tensor) / tensor.dims[0];
    stored.dtype = DType::kU8;
    stored.shape = {rows, static_cast<std::int64_t>(stored.bytes) / rows};
  } else if (const std::optional<DType> dtype = gguf_plain_dtype(tensor.type)) {
    stored.dtype = *dtype;
  } else {
    const GgmlType* type = find_ggml_type(tensor.type);
    throw Error(ErrorCode::kBadInput,
                fmt::format("{}: tensor {} is of type {}, which halfquad does not write", quoted(file.path.string()),
                            quoted(tensor.name), type == nullptr ? "unknown" : type->name));
  }
  return stored;
}

}  // namespace

OpenedModel open_gguf_output(const Format& format, FileSystem& fs, const std::filesystem::path& path) {
  const auto file_path = find_gguf_model(fs, path).value_or(path);
  GgufFiles files = open_gguf_files(fs, file_path);
  auto header = std::make_shared<const GgufHeader>(files.model());
  const std::vector<GgufFiles::Place> places = files.places();
  std::vector<SourceTensor> tensors;
  for (std::size_t i = 0; i < places.size(); ++i) {
    const SourceFile& file = files.files[static_cast<std::size_t>(places[i].file)];
    tensors.push_back(stored_tensor(header->tensors[i], places[i], file));
  }
  const bool is_single_file = path == file_path && files.files.size() == 1;
  OpenedModel opened{Checkpoint::of_gguf(std::move(files.files), is_single_file, std::move(tensors), header), {}};
  SmallTensorReader reader(fs, opened.checkpoint);
  for (const GgufTensor& tensor : header->tensors) {
    const std::optional<QuantSpec> spec = spec_of(tensor);
    if (!spec) continue;
    const std::int64_t cols = tensor.dims[0];
    opened.layers.push_back(stored_row_layer(format, opened.checkpoint, module_of(tensor.name), *spec,
                                             elements_of(tensor) / cols, cols, DType::kF16));
    if (!spec->has_tensor_scale()) continue;
    const std::int64_t parts = tensor.dims.size() > 2 ? tensor.dims.back() : 1;
    take_tensor_scale(opened.checkpoint, reader, parts, opened.layers.back());
  }
  return opened;
}

}  // namespace halfquad
