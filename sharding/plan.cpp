#include "sharding/plan.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "runtime/checked.h"
#include "sharding/item_buffer.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kMiB = 1ULL << 20;
// Items that readers and writers hold beside the workers.
constexpr std::uint64_t kReadersAndWriters = 8;

void add_item(Plan& plan, const WorkItem& item, std::uint64_t buffer_bytes) {
  plan.source_bytes += item.source_bytes;
  plan.read_bytes += item.read_bytes;
  plan.largest_item_bytes = std::max(plan.largest_item_bytes, buffer_bytes);
  plan.items.push_back(item);
}

void add_tiles(Plan& plan, const QuantizedTensor& tensor, std::size_t index, const SourceTensor& source, DType stored) {
  plan.weights += static_cast<std::uint64_t>(tensor.rows * tensor.cols);
  std::uint64_t tensor_bytes = 0;
  for (std::int64_t tile = 0; tile < tensor.tiles.tile_count(); ++tile) {
    const std::vector<ByteRange> ranges = tensor.tiles.source_ranges(tile, bytes_of(source.dtype));
    const std::uint64_t codes = total_bytes(tensor.tiles.code_ranges(tile));
    const std::uint64_t grids = total_bytes(tensor.tiles.scale_ranges(tile, bytes_of(stored))) +
                                total_bytes(tensor.tiles.zero_ranges(tile, bytes_of(stored)));
    const std::uint64_t bytes = ItemBuffer::tile_bytes(tensor, tile, source, stored);
    const std::uint64_t decoded = total_bytes(ranges);
    add_item(plan, {WorkItem::Kind::kTile, index, tile, decoded, codes + grids, source.stored_bytes(decoded)}, bytes);
    tensor_bytes += std::max(bytes, ItemBuffer::tile_bytes(tensor, 0, source, stored));
  }
  plan.largest_tensor_bytes = std::max(plan.largest_tensor_bytes, tensor_bytes);
}

void add_copies(Plan& plan, std::uint64_t bytes, std::size_t index) {
  std::int64_t block = 0;
  for (std::uint64_t offset = 0; offset < bytes; offset += kCopyBlockBytes, ++block) {
    const std::uint64_t length = std::min(kCopyBlockBytes, bytes - offset);
    add_item(plan, {WorkItem::Kind::kCopy, index, block, length, length, length}, ItemBuffer::copy_bytes(length));
  }
}

// Source number `part` of a converted tensor.
void add_conversions(Plan& plan, const OutputTensor& content, std::size_t index, std::size_t part,
                     const SourceTensor& source) {
  const Conversion& conversion = content.conversion;
  for (std::int64_t block = 0; block < conversion.blocks(); ++block) {
    const Conversion::Block rows = conversion.block(block);
    const auto decoded = static_cast<std::uint64_t>((rows.end - rows.begin) * conversion.cols * bytes_of(source.dtype));
    add_item(plan,
             {WorkItem::Kind::kCopy, index, static_cast<std::int64_t>(part) * conversion.blocks() + block, decoded,
              rows.elements * static_cast<std::uint64_t>(bytes_of(conversion.to)), source.stored_bytes(decoded)},
             ItemBuffer::conversion_bytes(conversion, rows, source));
  }
}

double seconds_at(std::uint64_t amount, double rate) { return rate > 0 ? static_cast<double>(amount) / rate : 0; }

}  // namespace

Plan make_plan(const Checkpoint& checkpoint, const OutputLayout& layout) {
  // The checkpoint's tensors come by (file, offset): walking them walks the files.
  const std::size_t count = checkpoint.tensors().size();
  // By source: what it goes into, and as which of several sources.
  struct Use {
    std::size_t entry = 0, part = 0;
  };
  std::vector<std::optional<std::size_t>> quantized(count);
  std::vector<std::vector<Use>> copied(count);
  for (std::size_t i = 0; i < layout.quantized().size(); ++i) quantized[layout.quantized()[i].source] = i;
  for (std::size_t i = 0; i < layout.contents().size(); ++i) {
    const OutputTensor& content = layout.contents()[i];
    if (content.kind == OutputTensor::Kind::kCopy) copied[content.source].push_back({i, 0});
    for (std::size_t part = 0; part < content.sources.size(); ++part) {
      copied[content.sources[part]].push_back({i, part});
    }
  }

  Plan plan;
  plan.output_bytes = layout.data_bytes();
  for (std::size_t source = 0; source < count; ++source) {
    const SourceTensor& tensor = checkpoint.tensors()[source];
    if (quantized[source]) {
      add_tiles(plan, layout.quantized()[*quantized[source]], *quantized[source], tensor, layout.stored());
    }
    for (const Use& use : copied[source]) {
      const OutputTensor& content = layout.contents()[use.entry];
      if (content.kind == OutputTensor::Kind::kCopy) {
        add_copies(plan, content.blocks.total_bytes, use.entry);
      } else {
        add_conversions(plan, content, use.entry, use.part, tensor);
      }
    }
  }
  return plan;
}

Prediction predict(const Plan& plan, const Rates& rates, int threads) {
  // The stages overlap, so the slowest one sets the time.
  Prediction prediction;
  prediction.read_seconds = seconds_at(plan.read_bytes, rates.read_bytes_per_s);
  prediction.write_seconds = seconds_at(plan.output_bytes, rates.write_bytes_per_s);
  prediction.solve_seconds = seconds_at(plan.weights, rates.weights_per_s_per_core * std::max(1, threads));
  const std::array<std::pair<double, std::string_view>, 3> stages = {{{prediction.read_seconds, "reading"},
                                                                      {prediction.write_seconds, "writing"},
                                                                      {prediction.solve_seconds, "solving"}}};
  const auto& slowest = *std::ranges::max_element(stages, {}, [](const auto& stage) { return stage.first; });
  prediction.seconds = slowest.first;
  prediction.bound = slowest.second;
  return prediction;
}

std::uint64_t minimum_memory(const Plan& plan) noexcept { return round_up(2 * plan.largest_item_bytes, kMiB); }

std::uint64_t comfortable_memory(const Plan& plan, int threads) noexcept {
  // In flight: a tile a worker, as many read ahead, and what readers and writers hold; beside them the tiles of one
  // tensor that wait for its last one.
  const std::uint64_t in_flight = 2 * static_cast<std::uint64_t>(std::max(1, threads)) + kReadersAndWriters;
  const std::uint64_t bytes = in_flight * plan.largest_item_bytes + plan.largest_tensor_bytes;
  return std::max(minimum_memory(plan), round_up(bytes, kMiB));
}

}  // namespace halfquad
