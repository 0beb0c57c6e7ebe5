#include "sharding/dequantize.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "io/image_writer.h"
#include "io/safetensors_header.h"
#include "kernels/decode.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "sharding/code_values.h"
#include "sharding/formats/hqq_keys.h"
#include "sharding/stored_tile.h"

namespace halfquad {
namespace {

constexpr std::int64_t kChunkElements = 16384;  // fp32 results that stay in the first-level caches

/// Header entries of the plain model: widest dtype first, then by name.
std::vector<TensorEntry> plain_entries(const QuantizedModel& output, DType dtype) {
  std::vector<TensorEntry> entries;
  for (const StoredLayer& layer : output.layers()) {
    entries.push_back({.name = layer.module + ".weight", .dtype = dtype, .shape = {layer.rows, layer.cols}});
    entries.back().end = static_cast<std::uint64_t>(layer.rows * layer.cols * bytes_of(dtype));
  }
  for (const std::size_t index : output.plain()) {
    const SourceTensor& tensor = output.checkpoint().tensors()[index];
    entries.push_back({.name = tensor.name, .dtype = tensor.dtype, .shape = tensor.shape, .end = tensor.bytes});
  }
  std::sort(entries.begin(), entries.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::pair(b.dtype, std::string_view(a.name)) < std::pair(a.dtype, std::string_view(b.name));
  });
  std::uint64_t at = 0;
  for (TensorEntry& entry : entries) {
    entry.begin = at;
    entry.end = at += entry.end;
  }
  return entries;
}

/// Turns a tile into weights of the wanted dtype, in the tile's element order.
class TileDecoder {
 public:
  static std::uint64_t workspace_bytes(const StoredLayer& layer) {
    const GroupedShape& grouped = layer.tiles.grouped();
    const std::int64_t line = layer.tiles.by_columns() ? layer.tiles.tile_extent() : grouped.cols;
    return Workspace::cost(static_cast<std::uint64_t>(std::max(line, kChunkElements)) * sizeof(float));
  }

  static void decode(const StoredTile& tile, DType dtype, std::span<std::byte> chunk, std::byte* out) {
    const bool rows = tile.element_stride == 1;  // a line is a group, otherwise one element of every group
    const std::int64_t line = rows ? tile.group_elems : tile.groups;
    const std::int64_t lines = tile.elements() / line;
    const std::int64_t step = std::max<std::int64_t>(1, kChunkElements / line);
    auto* const values = reinterpret_cast<float*>(chunk.data());
    for (std::int64_t first = 0; first < lines; first += step) {
      const std::int64_t count = std::min(step, lines - first);
      for (std::int64_t i = 0; i < count; ++i) {
        const std::uint8_t* const codes = tile.codes + (first + i) * line;
        if (rows) {
          decode_row({codes, static_cast<std::size_t>(line)}, CodeValues(tile.levels), tile.scale[first + i],
                     tile.zero[first + i], values + i * line);
        } else {
          decode_column_line(codes, line, tile.scale, tile.zero, values + i * line);
        }
      }
      encode_from_f32(values, dtype, count * line, out);
      out += count * line * bytes_of(dtype);
    }
  }

 private:
  static void decode_row(std::span<const std::uint8_t> codes, CodeValues value, float scale, float zero, float* out) {
    for (const std::uint8_t code : codes) *out++ = (value(code) - zero) * scale;
  }

  static void decode_column_line(const std::uint8_t* codes, std::int64_t count, const float* scale, const float* zero,
                                 float* out) {
    for (std::int64_t g = 0; g < count; ++g) out[g] = (static_cast<float>(codes[g]) - zero[g]) * scale[g];
  }
};

/// A tile of a layer or a block of a plain tensor.
struct Item {
  const StoredLayer* layer = nullptr;  ///< null: plain
  std::size_t tensor = 0;              ///< Plain: index into the output's tensors.
  std::size_t target = 0;              ///< Index into the written file's tensors.
  std::int64_t tile = 0;
  ByteRange block{};
  bool last = false;
};

class Dequantizer {
 public:
  Dequantizer(FileSystem& fs, const QuantizedModel& output, const DequantizeOptions& options,
              std::span<const TensorEntry> entries, ImageWriter& writer, ProgressCounters& progress)
      : output_(output),
        dtype_(options.dtype),
        files_(fs, output.checkpoint(), options.read_mode),
        writer_(writer),
        progress_(progress),
        buffers_(options.threads, worker_bytes(output, options.dtype), options.memory_bytes) {
    std::map<std::string_view, std::size_t> targets;
    for (std::size_t i = 0; i < entries.size(); ++i) targets[entries[i].name] = i;
    for (const StoredLayer& layer : output.layers()) add_tiles(layer, targets.at(layer.module + ".weight"));
    for (const std::size_t tensor : output.plain()) {
      add_blocks(tensor, targets.at(output.checkpoint().tensors()[tensor].name));
    }
  }

  void run(const StopFlag& stop) {
    parallel_for(buffers_.workers(), static_cast<std::int64_t>(items_.size()), stop,
                 [&](int worker, std::int64_t index) {
                   const Item& item = items_[static_cast<std::size_t>(index)];
                   if (item.layer != nullptr) {
                     write_tile(item, buffers_.of(worker));
                   } else {
                     write_block(item, buffers_.of(worker));
                   }
                   if (item.last) ++progress_.tensors_done;
                 });
  }

 private:
  static std::uint64_t tile_bytes(const StoredLayer& layer, std::int64_t tile, DType dtype) {
    return total_bytes(layer.tiles.source_ranges(tile, bytes_of(dtype)));
  }

  static std::uint64_t worker_bytes(const QuantizedModel& output, DType dtype) {
    std::uint64_t most = Workspace::cost(OpenCheckpoint::kScratchBytes) + Workspace::cost(kCopyBlockBytes);
    for (const StoredLayer& layer : output.layers()) {
      most = std::max(most, Workspace::cost(StoredTileReader::workspace_bytes(layer)) +
                                TileDecoder::workspace_bytes(layer) + Workspace::cost(tile_bytes(layer, 0, dtype)));
    }
    return most;
  }

  void add_tiles(const StoredLayer& layer, std::size_t target) {
    const std::int64_t count = layer.tiles.tile_count();
    for (std::int64_t tile = 0; tile < count; ++tile) {
      items_.push_back({.layer = &layer, .target = target, .tile = tile, .last = tile + 1 == count});
    }
  }

  void add_blocks(std::size_t tensor, std::size_t target) {
    const std::uint64_t bytes = output_.checkpoint().tensors()[tensor].bytes;
    for (std::uint64_t at = 0; at < bytes; at += kCopyBlockBytes) {
      const std::uint64_t length = std::min(kCopyBlockBytes, bytes - at);
      items_.push_back({.tensor = tensor, .target = target, .block = {at, length}, .last = at + length == bytes});
    }
  }

  void write_tile(const Item& item, std::span<std::byte> buffer) {
    const StoredLayer& layer = *item.layer;
    Workspace workspace(buffer);
    StoredTileReader reader(output_, files_, workspace.take(StoredTileReader::workspace_bytes(layer)));
    const StoredTile tile = reader.load(layer, item.tile);
    const auto chunk = workspace.take(TileDecoder::workspace_bytes(layer));
    const auto out = workspace.take(tile_bytes(layer, item.tile, dtype_));
    TileDecoder::decode(tile, dtype_, chunk, out.data());
    std::uint64_t at = 0;
    for (const ByteRange& range : layer.tiles.source_ranges(item.tile, bytes_of(dtype_))) {
      writer_.write(item.target, range.offset, out.subspan(at, range.bytes));
      at += range.bytes;
    }
    const std::uint64_t read = reader.bytes_read();
    progress_.bytes_read += read;
    progress_.source_bytes_done += read;
    progress_.bytes_written += out.size();
    progress_.weights_done += static_cast<std::uint64_t>(tile.elements());
  }

  void write_block(const Item& item, std::span<std::byte> buffer) {
    Workspace workspace(buffer);
    const auto scratch = workspace.take(OpenCheckpoint::kScratchBytes);
    const auto data = workspace.take(item.block.bytes);
    files_.gather(output_.checkpoint().tensors()[item.tensor], {&item.block, 1}, scratch, data.data());
    writer_.write(item.target, item.block.offset, data);
    progress_.bytes_read += data.size();
    progress_.source_bytes_done += data.size();
    progress_.bytes_written += data.size();
  }

  const QuantizedModel& output_;
  DType dtype_;
  OpenCheckpoint files_;
  ImageWriter& writer_;
  ProgressCounters& progress_;
  WorkerBuffers buffers_;
  std::vector<Item> items_;
};

}  // namespace

void dequantize(FileSystem& fs, const QuantizedModel& output, const std::filesystem::path& file,
                const DequantizeOptions& options, ProgressCounters& progress, const StopFlag& stop) {
  HALFQUAD_REQUIRE(options.dtype == DType::kF32 || options.dtype == DType::kF16 || options.dtype == DType::kBF16,
                   kUsage, fmt::format("weights are dequantized to F32, F16 or BF16, not {}", name_of(options.dtype)));
  const std::vector<TensorEntry> entries = plain_entries(output, options.dtype);
  std::vector<ImageWriter::Slot> slots;
  for (const TensorEntry& entry : entries) slots.push_back({entry.name, entry.bytes()});
  ImageWriter writer(fs, file, safetensors_image(entries, {{"format", "pt"}}), slots);
  Dequantizer(fs, output, options, entries, writer, progress).run(stop);
  writer.finish();
}

ProgressTotals dequantize_totals(const QuantizedModel& output) {
  ProgressTotals totals;
  const auto tensors = output.checkpoint().tensors();
  for (const StoredLayer& layer : output.layers()) {
    totals.source_bytes += StoredTileReader::layer_bytes(output, layer);
    totals.weights += static_cast<std::uint64_t>(layer.rows * layer.cols);
  }
  for (const std::size_t index : output.plain()) totals.source_bytes += tensors[index].bytes;
  totals.tensors = output.layers().size() + output.plain().size();
  return totals;
}

boost::json::object dequantized_config(const std::optional<boost::json::object>& quantized, DType dtype) {
  boost::json::object config;
  if (quantized) config = config_of_plain(*quantized);
  if (config.contains("dtype")) {  // the name since transformers 4.56
    config["dtype"] = torch_name(dtype);
  } else {
    config["torch_dtype"] = torch_name(dtype);
  }
  return config;
}

}  // namespace halfquad
