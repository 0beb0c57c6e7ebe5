#include "sharding/hqq_layout.h"

#include <algorithm>
#include <numeric>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/hqq_keys.h"

namespace halfquad {
namespace {

BlockLayout one_block(std::uint64_t bytes) { return {bytes, bytes, bytes}; }

/// Entries and contents before their order in the file is known.
struct Catalog {
  std::vector<TensorEntry> entries;
  std::vector<OutputTensor> contents;

  /// `entry.end` is the size so far.
  std::size_t add(TensorEntry entry, OutputTensor content) {
    entry.end = content.blocks.total_bytes;
    entries.push_back(std::move(entry));
    contents.push_back(std::move(content));
    return entries.size() - 1;
  }
};

TensorEntry entry_of(std::string name, DType dtype, std::vector<std::int64_t> shape) {
  return {std::move(name), dtype, std::move(shape), 0, 0};
}

void add_copy(Catalog& catalog, const SourceTensor& tensor, std::size_t source) {
  OutputTensor content;
  content.kind = OutputTensor::Kind::kCopy;
  content.source = source;
  content.blocks = copy_blocks(tensor.bytes);
  catalog.add(entry_of(tensor.name, tensor.dtype, tensor.shape), std::move(content));
}

std::size_t add_data(Catalog& catalog, OutputTensor::Kind kind, TensorEntry entry, const BlockLayout& blocks) {
  OutputTensor content;
  content.kind = kind;
  content.blocks = blocks;
  return catalog.add(std::move(entry), std::move(content));
}

QuantizedTensor add_quantized(Catalog& catalog, const SourceTensor& tensor, const Decision& decision, DType stored) {
  const std::int64_t rows = tensor.shape[0];
  const std::int64_t cols = tensor.shape[1];
  const QuantSpec& spec = decision.spec;
  const TileGeometry tiles(spec, rows, cols);
  const std::string module(module_of(tensor.name));
  const std::vector<std::int64_t> scale_shape = hqq_scale_shape(spec, tiles.scale_count());
  const BlockLayout scale_blocks = tiles.scale_blocks(bytes_of(stored));

  const std::size_t codes =
      add_data(catalog, OutputTensor::Kind::kCodes,
               entry_of(module + ".W_q", hqq_codes_dtype(tiles.packing()), {tiles.packed_rows(), tiles.grouped().cols}),
               tiles.code_blocks());
  const std::size_t scale =
      add_data(catalog, OutputTensor::Kind::kScale, entry_of(module + ".scale", stored, scale_shape), scale_blocks);
  const std::size_t zero =
      add_data(catalog, OutputTensor::Kind::kZero, entry_of(module + ".zero", stored, scale_shape), scale_blocks);
  for (HqqConstant& constant : hqq_constants(spec, rows, cols, stored)) {
    OutputTensor content;
    content.kind = OutputTensor::Kind::kConstant;
    content.blocks = one_block(constant.bytes.size());
    content.constant = std::move(constant.bytes);
    catalog.add(entry_of(fmt::format("{}.{}", module, constant.key), constant.dtype, std::move(constant.shape)),
                std::move(content));
  }
  return {decision.source, module, spec, rows, cols, tiles, codes, scale, zero};
}

/// Position of each catalog entry in the file: widest dtype first, then by name.
std::vector<std::size_t> file_order(const Catalog& catalog) {
  std::vector<std::size_t> order(catalog.entries.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) {
    const TensorEntry& x = catalog.entries[a];
    const TensorEntry& y = catalog.entries[b];
    return x.dtype != y.dtype ? x.dtype > y.dtype : x.name < y.name;
  });
  return order;
}

void require_distinct_names(std::span<const TensorEntry> entries) {
  std::vector<std::string_view> names;
  names.reserve(entries.size());
  for (const TensorEntry& entry : entries) names.push_back(entry.name);
  std::ranges::sort(names);
  const auto twice = std::ranges::adjacent_find(names);
  if (twice == names.end()) return;
  const std::string_view module = twice->substr(0, twice->rfind('.'));
  throw Error(ErrorCode::kBadInput,
              fmt::format("the source already holds a tensor {}, which quantizing {} would write too; leave that layer "
                          "unquantized with a skip pattern",
                          quoted(*twice), quoted(module)));
}

}  // namespace

OutputLayout::OutputLayout(const Checkpoint& checkpoint, std::span<const Decision> decisions, DType stored)
    : stored_(stored) {
  HALFQUAD_REQUIRE(stored == DType::kF16 || stored == DType::kBF16 || stored == DType::kF32, kUsage,
                   fmt::format("scales and zeros can be stored as F16, BF16 or F32, not {}", name_of(stored)));
  Catalog catalog;
  for (const Decision& decision : decisions) {
    const SourceTensor& tensor = checkpoint.tensors()[decision.source];
    if (decision.quantize()) {
      quantized_.push_back(add_quantized(catalog, tensor, decision, stored));
    } else {
      add_copy(catalog, tensor, decision.source);
    }
  }
  require_distinct_names(catalog.entries);

  const std::vector<std::size_t> order = file_order(catalog);
  std::vector<std::size_t> place(order.size());
  entries_.reserve(order.size());
  contents_.reserve(order.size());
  std::uint64_t offset = 0;
  for (const std::size_t index : order) {
    place[index] = entries_.size();
    TensorEntry& entry = entries_.emplace_back(std::move(catalog.entries[index]));
    entry.begin = offset;
    entry.end += offset;
    offset = entry.end;
    contents_.push_back(std::move(catalog.contents[index]));
  }
  for (QuantizedTensor& tensor : quantized_) {
    tensor.codes = place[tensor.codes];
    tensor.scale = place[tensor.scale];
    tensor.zero = place[tensor.zero];
  }
}

std::uint64_t OutputLayout::data_bytes() const noexcept { return entries_.empty() ? 0 : entries_.back().end; }

}  // namespace halfquad
