#include "sharding/output_layout.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "io/json.h"
#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/fused_parts.h"

namespace halfquad {
namespace {

// Of an output that was to be one file, but has more tensors than a header may name.
constexpr std::uint64_t kShardBytesOfManyTensors = 50'000'000'000;

/// The file of every entry: whole modules, in their order, as long as they fit.
std::vector<std::size_t> files_of(std::span<const TensorEntry> entries, std::span<const std::size_t> modules,
                                  std::uint64_t max_shard_bytes) {
  std::vector<std::uint64_t> bytes;  // by module
  for (std::size_t i = 0; i < entries.size(); ++i) {
    bytes.resize(std::max(bytes.size(), modules[i] + 1));
    bytes[modules[i]] += entries[i].bytes();
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
  std::vector<std::size_t> result(entries.size());
  for (std::size_t i = 0; i < entries.size(); ++i) result[i] = files[modules[i]];
  return result;
}

/// Position of each catalog entry in the output: by file, then as the format has it or widest dtype first and by name.
std::vector<std::size_t> file_order(std::span<const TensorEntry> entries, std::span<const OutputTensor> contents,
                                    bool keep) {
  std::vector<std::size_t> order(entries.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) {
    const TensorEntry& x = entries[a];
    const TensorEntry& y = entries[b];
    if (contents[a].file != contents[b].file) return contents[a].file < contents[b].file;
    if (keep) return false;
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
                           std::uint64_t max_shard_bytes, const Format& format, const SourceTexts& texts)
    : format_(&format), stored_(stored) {
  HALFQUAD_REQUIRE(stored == DType::kF16 || stored == DType::kBF16 || stored == DType::kF32, kUsage,
                   fmt::format("scales and zeros can be stored as F16, BF16 or F32, not {}", name_of(stored)));
  const FormatInputs inputs{checkpoint, decisions, stored, texts};
  OutputCatalog catalog;
  format.fill(catalog, inputs);
  require_distinct_names(catalog.entries_);
  std::vector<std::size_t> place = arrange(catalog, max_shard_bytes);
  if (max_shard_bytes == kOneFile && format.too_many_for_one_file(entries_)) {
    place = arrange(catalog, kShardBytesOfManyTensors);
  }
  quantized_ = std::move(catalog.quantized_);
  for (QuantizedTensor& tensor : quantized_) {
    for (std::size_t* part : {&tensor.codes, &tensor.scale, &tensor.zero, &tensor.tensor_scale, &tensor.levels}) {
      if (*part != QuantizedTensor::kNoEntry) *part = place[*part];
    }
  }
  take_given(decisions);
  share_tensor_scales();
  make_images(inputs);
}

void OutputLayout::take_given(std::span<const Decision> decisions) {
  std::map<std::size_t, const Decision*> given;  // by source
  std::set<std::size_t> unmeasured;
  for (const Decision& decision : decisions) {
    if (decision.unmeasured) unmeasured.insert(decision.source);
    if (decision.given) given.emplace(decision.source, &decision);
  }
  for (QuantizedTensor& tensor : quantized_) {
    const auto found = given.find(tensor.source);
    tensor.given = found != given.end();
    tensor.unmeasured = unmeasured.contains(tensor.source);
    if (!tensor.given) continue;
    tensor.given_tensor_scale = found->second->tensor_scale;
    tensor.given_levels = found->second->levels;
  }
}

/// Engines that merge layers have one tensor scale for what becomes of them.
void OutputLayout::share_tensor_scales() {
  std::map<std::string, std::vector<std::size_t>> merged;
  for (std::size_t i = 0; i < quantized_.size(); ++i) {
    if (!quantized_[i].wants_tensor_scale() || quantized_[i].tensor_scale_form != TensorScaleForm::kDivisor) continue;
    const std::string layer = fused_layer_of(quantized_[i].module);
    if (!layer.empty()) merged[layer].push_back(i);
  }
  for (const auto& [layer, parts] : merged) {
    for (const std::size_t part : parts) quantized_[part].scale_with = parts;
  }
}

/// Returns the place of each catalog entry.
std::vector<std::size_t> OutputLayout::arrange(OutputCatalog& catalog, std::uint64_t max_shard_bytes) {
  const std::vector<std::size_t> files = files_of(catalog.entries_, catalog.modules_, max_shard_bytes);
  for (std::size_t i = 0; i < files.size(); ++i) catalog.contents_[i].file = files[i];
  files_.assign(files.empty() ? 1 : *std::ranges::max_element(files) + 1, {});
  entries_.clear();
  contents_.clear();
  std::vector<std::size_t> place(catalog.entries_.size());
  for (const std::size_t index : file_order(catalog.entries_, catalog.contents_, format_->keeps_order())) {
    place[index] = entries_.size();
    append(catalog.entries_[index], catalog.contents_[index]);
  }
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

void OutputLayout::make_images(const FormatInputs& inputs) {
  for (std::size_t i = 0; i < files_.size(); ++i) {
    files_[i].name = format_->file_name(i, files_.size());
    files_[i].image = format_->image(inputs, *this, files_[i]);
    HALFQUAD_REQUIRE(files_[i].image.offsets.size() == files_[i].end - files_[i].begin, kInternal,
                     "the image of " + files_[i].name + " is not of its tensors");
  }
}

std::vector<ImageWriter::Slot> OutputLayout::slots_of(const OutputFile& file) const {
  std::vector<ImageWriter::Slot> slots;
  for (const TensorEntry& entry : entries_of(file)) slots.push_back({entry.name, entry.bytes()});
  return slots;
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
  if (layout.files().size() == 1 || layout.format().container() != Container::kSafetensors) return {};
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
