#include "sharding/formats/row_format.h"

#include <algorithm>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "runtime/check.h"
#include "runtime/text.h"
#include "sharding/shape_text.h"
#include "sharding/stored_layer.h"

namespace halfquad {
namespace {

constexpr std::string_view kLmHead = "lm_head";

/// Embeddings and norms are no linear layers: loaders never look for their codes.
bool needs_skip_entry(const SourceTensor& tensor, const Decision& decision) {
  if (decision.quantize() || tensor.shape.size() != 2 || !tensor.name.ends_with(".weight")) return false;
  return decision.keep != KeepReason::kEmbedding && decision.keep != KeepReason::kNorm;
}

/// Adds the index of a wanted tensor of the layer to `layer`.
std::size_t require(const LayerTensorFinder& finder, std::string_view module, const TensorShape& wanted,
                    StoredLayer& layer) {
  const std::size_t found =
      finder.find(std::string_view(wanted.name).substr(module.size() + 1), wanted.dtype, wanted.shape);
  layer.tensors.push_back(found);
  return found;
}

}  // namespace

std::string why_not_grid(std::string_view format, FloatGrid grid) {
  const bool is_float = grid == FloatGrid::kNvfp4 || grid == FloatGrid::kMxfp4;
  const std::string_view takers = is_float ? "compressed-tensors and gguf do" : "hdf5 does";
  return fmt::format("{} has no {} codes; {}", format, name_of(grid), takers);
}

std::optional<std::string> why_not_rows(std::string_view format, const RowLimits& limits, const QuantSpec& spec,
                                        std::int64_t rows, std::int64_t cols) {
  if (auto reason = why_not_grouped(spec, rows, cols)) return reason;
  if (spec.axis != 1) return fmt::format("{} keeps groups along rows: axis 1, not {}", format, spec.axis);
  if (!spec.channel_wise) return fmt::format("{} has no scale for a whole tensor", format);
  if (spec.super_blocks && !limits.super_blocks) return fmt::format("{} has no super-blocks", format);
  if (spec.grid != FloatGrid::kNone) {
    if (std::ranges::find(limits.grids, spec.grid) == limits.grids.end()) {
      return why_not_grid(format, spec.grid);
    }
    if (spec.group_size == 0 || cols % spec.group_size == 0) return std::nullopt;
    return fmt::format("groups of {} do not divide rows of {} weights", spec.group_size, cols);
  }
  if (std::ranges::find(limits.widths, spec.width) == limits.widths.end()) {
    return fmt::format("{} has no {}-bit codes", format, name_of(spec.width));
  }
  const bool known =
      limits.group_sizes.empty() || std::ranges::find(limits.group_sizes, spec.group_size) != limits.group_sizes.end();
  if (spec.group_size == 0 ? !limits.whole_rows : !known) {
    return spec.group_size == 0 ? fmt::format("{} has no groups of whole rows", format)
                                : fmt::format("{} has no groups of {}", format, spec.group_size);
  }
  if (spec.group_size != 0 && cols % spec.group_size != 0) {
    return fmt::format("group size {} does not divide rows of {} weights", spec.group_size, cols);
  }
  return std::nullopt;
}

void want_whole_zeros(QuantSpec& spec) noexcept {
  spec.round_zero = false;
  if (spec.zeros == ZeroKind::kFloat) spec.zeros = ZeroKind::kInteger;
}

boost::json::object config_with(const Checkpoint& checkpoint, boost::json::object quantization) {
  boost::json::object config = checkpoint.config().value_or(boost::json::object{});
  config["quantization_config"] = std::move(quantization);
  return config;
}

std::string model_dtype(const Checkpoint& checkpoint) {
  if (!checkpoint.config()) return "bfloat16";
  for (const char* key : {"dtype", "torch_dtype"}) {
    const boost::json::value* value = checkpoint.config()->if_contains(key);
    if (value != nullptr && value->is_string()) return std::string(value->get_string());
  }
  return "bfloat16";
}

int whole_bits(CodeWidth width) noexcept { return width == CodeWidth::k1_58 ? 2 : static_cast<int>(bits_of(width)); }

QuantSpec most_frequent_spec(std::span<const Decision> decisions) {
  std::vector<std::pair<QuantSpec, std::size_t>> counts;
  for (const Decision& decision : decisions) {
    if (!decision.quantize()) continue;
    const auto found = std::ranges::find(counts, decision.spec, &std::pair<QuantSpec, std::size_t>::first);
    if (found == counts.end()) {
      counts.emplace_back(decision.spec, 1);
    } else {
      ++found->second;
    }
  }
  const auto best = std::ranges::max_element(counts, {}, &std::pair<QuantSpec, std::size_t>::second);
  return best == counts.end() ? QuantSpec{} : best->first;
}

bool quantizes_lm_head(const Checkpoint& checkpoint, std::span<const Decision> decisions) {
  return std::ranges::any_of(decisions, [&](const Decision& decision) {
    const std::string_view module = module_of(checkpoint.tensors()[decision.source].name);
    return decision.quantize() && module.find(kLmHead) != module.npos;
  });
}

std::vector<std::string> unquantized_modules(const Checkpoint& checkpoint, std::span<const Decision> decisions) {
  // A tied lm_head is no tensor of the checkpoint but still a linear layer of the model.
  const bool list_lm_head = !quantizes_lm_head(checkpoint, decisions);
  std::set<std::string> modules;
  if (list_lm_head) modules.emplace(kLmHead);
  for (const Decision& decision : decisions) {
    const SourceTensor& tensor = checkpoint.tensors()[decision.source];
    if (!needs_skip_entry(tensor, decision)) continue;
    const std::string_view module = module_of(tensor.name);
    if (!list_lm_head || module.find(kLmHead) == module.npos) modules.emplace(module);
  }
  return {modules.begin(), modules.end()};
}

std::string quantization_method(const Checkpoint& checkpoint) {
  if (!checkpoint.config()) return {};
  const boost::json::value* quantization = checkpoint.config()->if_contains("quantization_config");
  if (quantization == nullptr || !quantization->is_object()) return {};
  const boost::json::value* method = quantization->get_object().if_contains("quant_method");
  return method != nullptr && method->is_string() ? std::string(method->get_string()) : std::string();
}

std::vector<std::string_view> modules_with(const Checkpoint& checkpoint, std::string_view suffix) {
  std::vector<std::string_view> modules;
  for (const SourceTensor& tensor : checkpoint.tensors()) {
    if (!tensor.name.ends_with(suffix) || tensor.name.size() == suffix.size()) continue;
    modules.push_back(std::string_view(tensor.name).substr(0, tensor.name.size() - suffix.size()));
  }
  return modules;
}

void fail_layer(const Checkpoint& checkpoint, std::string_view module, std::string_view key, const std::string& what) {
  const SourceTensor* found = checkpoint.find(fmt::format("{}.{}", module, key));
  const std::string file = found == nullptr ? checkpoint.directory().string()
                                            : checkpoint.files()[static_cast<std::size_t>(found->file)].name;
  throw Error(ErrorCode::kBadInput,
              fmt::format("{}: quantized layer {}, tensor {}: {}", quoted(file), quoted(module), quoted(key), what));
}

std::int64_t config_integer(const boost::json::object& object, std::string_view key, std::int64_t least,
                            std::int64_t most, std::string_view where) {
  const boost::json::value* value = object.if_contains(key);
  HALFQUAD_REQUIRE(value != nullptr && value->is_int64(), kBadInput,
                   fmt::format("config.json: {} has no whole number {}", where, quoted(key)));
  const std::int64_t number = value->get_int64();
  HALFQUAD_REQUIRE(
      number >= least && number <= most, kBadInput,
      fmt::format("config.json: {} of {} is {}, not between {} and {}", quoted(key), where, number, least, most));
  return number;
}

const SourceTensor* LayerTensorFinder::look(std::string_view key) const {
  return checkpoint_.find(fmt::format("{}.{}", module_, key));
}

const SourceTensor& LayerTensorFinder::get(std::string_view key) const {
  const SourceTensor* found = look(key);
  if (found == nullptr) fail(key, "the tensor is missing; loaders need it");
  return *found;
}

std::size_t LayerTensorFinder::find(std::string_view key, DType dtype, const std::vector<std::int64_t>& shape) const {
  const SourceTensor& found = get(key);
  if (found.dtype != dtype || found.shape != shape) {
    fail(key, fmt::format("{} of shape {} is needed, not {} of shape {}", name_of(dtype), shape_text(shape),
                          name_of(found.dtype), shape_text(found.shape)));
  }
  return static_cast<std::size_t>(&found - checkpoint_.tensors().data());
}

StoredLayer stored_row_layer(const Format& format, const Checkpoint& checkpoint, std::string_view module,
                             const QuantSpec& spec, std::int64_t rows, std::int64_t cols, DType stored) {
  const LayerTensorFinder finder(checkpoint, module);
  if (const auto reason = format.why_not(spec, rows, cols)) {
    fail_layer(checkpoint, module, "weight",
               fmt::format("shape {} does not fit: {}", shape_text({{rows, cols}}), *reason));
  }
  const RowPacker& packer = *format.packer();
  const RowShape shape{spec, rows, cols, stored};
  StoredLayer layer{.module = std::string(module),
                    .spec = spec,
                    .rows = rows,
                    .cols = cols,
                    .stored = stored,
                    .tiles = TileGeometry::of_whole_rows(spec, rows, cols, packer.cuts(shape),
                                                         {TileGeometry::kRowStep, packer.least_tile_rows()}),
                    .packer = &packer,
                    .tensors = {}};
  const LayerTensors wanted = format.tensors_of(module, spec, rows, cols, stored);
  layer.codes = require(finder, module, wanted.codes, layer);
  if (wanted.scale) layer.scale = require(finder, module, *wanted.scale, layer);
  if (wanted.zero) layer.zero = require(finder, module, *wanted.zero, layer);
  if (wanted.tensor_scale) static_cast<void>(require(finder, module, *wanted.tensor_scale, layer));
  if (wanted.levels) static_cast<void>(require(finder, module, *wanted.levels, layer));
  for (const LayerTensors::Constant& constant : wanted.constants) {
    static_cast<void>(require(finder, module, constant.tensor, layer));
  }
  return layer;
}

}  // namespace halfquad
