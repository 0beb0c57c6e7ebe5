#include "sharding/hqq_layout.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "io/json.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/hqq_keys.h"

namespace halfquad {
namespace {

BlockLayout one_block(std::uint64_t bytes) { return {bytes, bytes, bytes}; }

// Of an output that was to be one file, but has more tensors than a header may name.
constexpr std::uint64_t kShardBytesOfManyTensors = 50'000'000'000;

}  // namespace

/// Entries and contents before their order in the files is known.
struct OutputLayout::Catalog {
  std::vector<TensorEntry> entries;
  std::vector<OutputTensor> contents;
  std::vector<std::size_t> modules;  ///< Of each entry; numbered as they come.
  std::size_t module = 0;            ///< Of what is added next.

  /// `entry.end` is the size so far.
  std::size_t add(TensorEntry entry, OutputTensor content) {
    entry.end = content.blocks.total_bytes;
    entries.push_back(std::move(entry));
    contents.push_back(std::move(content));
    modules.push_back(module);
    return entries.size() - 1;
  }
};

namespace {

using Catalog = OutputLayout::Catalog;

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

/// Gives every entry its file: whole modules, in their order, as long as they fit. Returns how many files there are.
std::size_t assign_files(Catalog& catalog, std::uint64_t max_shard_bytes) {
  std::vector<std::uint64_t> bytes;  // by module
  for (std::size_t i = 0; i < catalog.entries.size(); ++i) {
    bytes.resize(std::max(bytes.size(), catalog.modules[i] + 1));
    bytes[catalog.modules[i]] += catalog.entries[i].bytes();
  }
  std::vector<std::size_t> files(bytes.size());
  std::size_t file = 0;
  std::uint64_t filled = 0;
  for (std::size_t module = 0; module < bytes.size(); ++module) {
    if (filled > 0 && bytes[module] > max_shard_bytes - std::min(filled, max_shard_bytes)) {
      ++file;
      filled = 0;
    }
    filled += bytes[module];
    files[module] = file;
  }
  for (std::size_t i = 0; i < catalog.entries.size(); ++i) catalog.contents[i].file = files[catalog.modules[i]];
  return file + 1;
}

/// Position of each catalog entry in the output: by file, widest dtype first, then by name.
std::vector<std::size_t> file_order(const Catalog& catalog) {
  std::vector<std::size_t> order(catalog.entries.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) {
    const TensorEntry& x = catalog.entries[a];
    const TensorEntry& y = catalog.entries[b];
    if (catalog.contents[a].file != catalog.contents[b].file)
      return catalog.contents[a].file < catalog.contents[b].file;
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

OutputLayout::OutputLayout(const Checkpoint& checkpoint, std::span<const Decision> decisions, DType stored,
                           std::uint64_t max_shard_bytes)
    : stored_(stored) {
  HALFQUAD_REQUIRE(stored == DType::kF16 || stored == DType::kBF16 || stored == DType::kF32, kUsage,
                   fmt::format("scales and zeros can be stored as F16, BF16 or F32, not {}", name_of(stored)));
  Catalog catalog;
  std::map<std::string_view, std::size_t> modules;
  for (const Decision& decision : decisions) {
    const SourceTensor& tensor = checkpoint.tensors()[decision.source];
    // Not module_of(): a bias is of the layer too.
    const std::string_view module = std::string_view(tensor.name).substr(0, tensor.name.rfind('.'));
    catalog.module = modules.try_emplace(module, modules.size()).first->second;
    if (decision.quantize()) {
      quantized_.push_back(add_quantized(catalog, tensor, decision, stored));
    } else {
      add_copy(catalog, tensor, decision.source);
    }
  }
  require_distinct_names(catalog.entries);

  std::vector<std::size_t> place = arrange(catalog, max_shard_bytes);
  if (max_shard_bytes == kOneFile && files_[0].data_start > kMaxHeaderBytes) {
    place = arrange(catalog, kShardBytesOfManyTensors);
  }
  for (QuantizedTensor& tensor : quantized_) {
    tensor.codes = place[tensor.codes];
    tensor.scale = place[tensor.scale];
    tensor.zero = place[tensor.zero];
  }
}

/// Returns the place of each catalog entry.
std::vector<std::size_t> OutputLayout::arrange(Catalog& catalog, std::uint64_t max_shard_bytes) {
  files_.assign(assign_files(catalog, max_shard_bytes), {});
  entries_.clear();
  contents_.clear();
  std::vector<std::size_t> place(catalog.entries.size());
  for (const std::size_t index : file_order(catalog)) {
    place[index] = entries_.size();
    append(catalog.entries[index], catalog.contents[index]);
  }
  finish_files();
  return place;
}

/// `entry.end` is its size so far.
void OutputLayout::append(TensorEntry entry, OutputTensor content) {
  OutputFile& file = files_[content.file];
  if (file.end == 0) file.begin = entries_.size();
  entry.begin = file.data_bytes;
  entry.end += file.data_bytes;
  file.data_bytes = entry.end;
  entries_.push_back(std::move(entry));
  contents_.push_back(std::move(content));
  file.end = entries_.size();
}

void OutputLayout::finish_files() {
  for (std::size_t i = 0; i < files_.size(); ++i) {
    OutputFile& file = files_[i];
    file.name =
        files_.size() == 1 ? kWeightsName : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, files_.size());
    file.data_start = safetensors_header_bytes(entries_of(file), metadata());
  }
}

const std::map<std::string, std::string>& OutputLayout::metadata() {
  static const std::map<std::string, std::string> kMetadata{{"format", "pt"}};
  return kMetadata;
}

std::uint64_t OutputLayout::data_bytes() const noexcept {
  return std::accumulate(files_.begin(), files_.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const OutputFile& file) { return sum + file.data_bytes; });
}

std::uint64_t OutputLayout::file_bytes() const noexcept {
  return std::accumulate(files_.begin(), files_.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const OutputFile& file) { return sum + file.bytes(); });
}

std::string index_text(const OutputLayout& layout) {
  if (layout.files().size() == 1) return {};
  boost::json::object weight_map;
  std::uint64_t total = 0;
  std::map<std::string_view, std::string_view> files;  // sorted, as other writers have it
  for (std::size_t i = 0; i < layout.entries().size(); ++i) {
    files[layout.entries()[i].name] = layout.file_of(i).name;
    total += layout.entries()[i].bytes();
  }
  for (const auto& [tensor, file] : files) weight_map[tensor] = file;
  return pretty_json(boost::json::object{{"metadata", {{"total_size", total}}}, {"weight_map", std::move(weight_map)}});
}

}  // namespace halfquad
