#include "launcher/inventory.h"

#include <algorithm>

#include <fmt/format.h>

#include "runtime/text.h"
#include "sharding/block_type.h"
#include "sharding/spec_chooser.h"

namespace halfquad {
namespace {

void add_kept(Inventory& inventory, const SourceTensor& tensor, KeepReason reason) {
  auto found = std::find_if(inventory.kept.begin(), inventory.kept.end(),
                            [reason](const KeptGroup& group) { return group.reason == reason; });
  if (found == inventory.kept.end()) {
    found = inventory.kept.insert(found, KeptGroup{reason, 0, 0, tensor.name});
  }
  ++found->tensors;
  found->bytes += tensor.stored_bytes();
  inventory.kept_bytes += tensor.stored_bytes();
}

void add_quantized(Inventory& inventory, const SourceTensor& tensor, const QuantizedTensor& quantized,
                   const OutputLayout& layout) {
  auto found = std::find_if(inventory.specs.begin(), inventory.specs.end(),
                            [&](const SpecGroup& group) { return group.spec == quantized.spec; });
  if (found == inventory.specs.end()) found = inventory.specs.insert(found, SpecGroup{quantized.spec});
  const std::uint64_t output = stored_layer_bytes(quantized, layout);
  const auto weights = static_cast<std::uint64_t>(quantized.rows * quantized.cols);
  ++found->tensors;
  found->weights += weights;
  found->source_bytes += tensor.stored_bytes();
  found->output_bytes += output;
  inventory.weights += weights;
  inventory.quantized_output_bytes += output;
}

/// Of tensors as they lie in the files, which are all there is where some have to be decoded.
std::uint64_t stored_bytes(const Checkpoint& checkpoint) {
  const auto decoded = [](const SourceTensor& tensor) { return tensor.decoder != nullptr; };
  if (std::ranges::none_of(checkpoint.tensors(), decoded)) return checkpoint.tensor_bytes();
  std::uint64_t bytes = 0;
  for (const SourceFile& file : checkpoint.files()) bytes += file.bytes;
  return bytes;
}

}  // namespace

std::uint64_t stored_layer_bytes(const QuantizedTensor& quantized, const OutputLayout& layout) {
  return stored_bytes_of(quantized, layout.stored());
}

double Inventory::bits_per_weight() const noexcept {
  return weights == 0 ? 0 : 8.0 * static_cast<double>(quantized_output_bytes) / static_cast<double>(weights);
}

std::size_t Inventory::quantized_tensors() const noexcept {
  std::size_t count = 0;
  for (const SpecGroup& group : specs) count += group.tensors;
  return count;
}

Inventory take_inventory(const Checkpoint& checkpoint, std::span<const Decision> decisions,
                         const OutputLayout& layout) {
  Inventory inventory;
  inventory.source_bytes = stored_bytes(checkpoint);
  const auto tensors = checkpoint.tensors();
  for (const Decision& decision : decisions) {
    if (!decision.quantize()) add_kept(inventory, tensors[decision.source], decision.keep);
  }
  for (const QuantizedTensor& quantized : layout.quantized()) {
    add_quantized(inventory, tensors[quantized.source], quantized, layout);
  }
  std::stable_sort(inventory.specs.begin(), inventory.specs.end(),
                   [](const SpecGroup& a, const SpecGroup& b) { return a.weights > b.weights; });
  std::stable_sort(inventory.kept.begin(), inventory.kept.end(),
                   [](const KeptGroup& a, const KeptGroup& b) { return a.bytes > b.bytes; });
  return inventory;
}

namespace {

std::string weights_text(const QuantSpec& spec) {
  if (!spec.weighted()) return {};
  return spec.importance == Importance::kFile ? ", columns weighted as measured" : ", columns weighted by themselves";
}

}  // namespace

std::string describe(const QuantSpec& spec) {
  if (spec.super_blocks) return std::string(block_type_of(spec)->name()) + weights_text(spec);
  if (spec.grid != FloatGrid::kNone) {
    std::string group;
    if (spec.has_levels()) group = spec.group_size == 0 ? ", whole rows" : fmt::format(", group {}", spec.group_size);
    return fmt::format("{}{}{}{}", name_of(spec.grid), group,
                       spec.solver == SolverKind::kRtn ? ", rounded with the largest scales" : "", weights_text(spec));
  }
  std::string text = fmt::format("{} bit", name_of(spec.width));
  if (!spec.channel_wise) return text + ", per tensor";
  if (spec.group_size == 0) {
    text += spec.axis == 1 ? ", whole rows" : ", whole columns";
  } else {
    text += fmt::format(", group {}", spec.group_size);
  }
  if (spec.axis != 1) text += fmt::format(", axis {}", spec.axis);
  if (spec.zeros == ZeroKind::kInteger) text += ", whole zeros";
  if (spec.zeros == ZeroKind::kSymmetric) text += ", symmetric";
  text += fmt::format(", {}", name_of(spec.solver));
  if (spec.optimizes()) text += fmt::format(" {} steps", spec.iters);
  if (spec.solver == SolverKind::kAls && (spec.zeros == ZeroKind::kFloat || spec.weighted())) {
    text += fmt::format(" {} starts of {}", spec.starts, spec.rounds);
  }
  text += weights_text(spec);
  // hqq rounds the start of zero at 4 bits and nowhere else.
  if (spec.solver == SolverKind::kAls) return text;
  if (spec.round_zero != (spec.width == CodeWidth::k4)) text += spec.round_zero ? ", round zero" : ", zero not rounded";
  return text;
}

std::vector<std::string> shape_warnings(const Checkpoint& checkpoint, std::span<const Decision> decisions) {
  std::vector<std::string> warnings;
  for (const Decision& decision : decisions) {
    if (decision.keep != KeepReason::kShape) continue;
    warnings.push_back(
        fmt::format("{} stays unquantized: {}", quoted(checkpoint.tensors()[decision.source].name), decision.why));
  }
  return warnings;
}

}  // namespace halfquad
