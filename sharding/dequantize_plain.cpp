#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "io/image_writer.h"
#include "io/safetensors_header.h"
#include "kernels/decode.h"
#include "runtime/parallel.h"
#include "sharding/dequantize.h"
#include "sharding/open_checkpoint.h"
#include "sharding/stored_tile.h"
#include "sharding/tiles.h"

namespace halfquad {
namespace {

/// Part of a tensor, which begins at element `begin`.
struct Item {
  const PlainTensor* plain = nullptr;
  std::size_t target = 0;  ///< Index into the written file's tensors.
  std::int64_t begin = 0, count = 0;
  bool last = false;
};

constexpr std::int64_t kItemElements = 1 << 20;
constexpr std::uint64_t kMostElementBytes = 16;

DType written_dtype(const PlainTensor& plain, DType dtype) { return plain.layer ? dtype : plain.tensor.dtype; }

class PlainWriter {
 public:
  PlainWriter(FileSystem& fs, const QuantizedModel& output, const PlainModel& model, const DequantizeOptions& options,
              ProgressCounters& progress)
      : model_(model),
        dtype_(options.dtype),
        files_(fs, output.checkpoint(), options.read_mode),
        progress_(progress),
        buffers_(options.threads,
                 Workspace::cost(OpenCheckpoint::kScratchBytes) +
                     2 * Workspace::cost(static_cast<std::uint64_t>(kItemElements) * kMostElementBytes),
                 options.memory_bytes) {}

  void write(FileSystem& fs, const std::filesystem::path& file, const StopFlag& stop) {
    std::vector<const PlainTensor*> tensors;
    for (const PlainTensor& plain : model_.tensors) tensors.push_back(&plain);
    std::ranges::sort(tensors, [&](const PlainTensor* a, const PlainTensor* b) {
      const auto key = [&](const PlainTensor* plain) {
        return std::pair(-static_cast<int>(written_dtype(*plain, dtype_)), std::string_view(plain->tensor.name));
      };
      return key(a) < key(b);
    });
    std::vector<TensorEntry> entries;
    std::vector<ImageWriter::Slot> slots;
    std::uint64_t at = 0;
    for (const PlainTensor* plain : tensors) {
      const DType dtype = written_dtype(*plain, dtype_);
      const std::uint64_t bytes = static_cast<std::uint64_t>(plain->tensor.elements() * bytes_of(dtype));
      entries.push_back({plain->tensor.name, dtype, plain->tensor.shape, at, at + bytes});
      slots.push_back({plain->tensor.name, bytes});
      at += bytes;
      add_items(*plain, entries.size() - 1);
    }
    ImageWriter writer(fs, file, safetensors_image(entries, {{"format", "pt"}}), slots);
    parallel_for(buffers_.workers(), static_cast<std::int64_t>(items_.size()), stop,
                 [&](int worker, std::int64_t index) {
                   write_item(items_[static_cast<std::size_t>(index)], buffers_.of(worker), writer);
                 });
    writer.finish();
  }

 private:
  void add_items(const PlainTensor& plain, std::size_t target) {
    const std::int64_t elements = plain.tensor.elements();
    // Whole rows, where these are of any length: they are what decoders read.
    const std::int64_t row = plain.tensor.shape.size() == 2 ? plain.tensor.shape[1] : 1;
    const std::int64_t rows = kItemElements / row / TileGeometry::kRowStep * TileGeometry::kRowStep;
    const std::int64_t step = rows > 0 ? rows * row : kItemElements;
    for (std::int64_t begin = 0; begin < elements; begin += step) {
      const std::int64_t count = std::min(step, elements - begin);
      items_.push_back({&plain, target, begin, count, begin + count == elements});
    }
  }

  void write_item(const Item& item, std::span<std::byte> buffer, ImageWriter& writer) {
    const SourceTensor& tensor = item.plain->tensor;
    const std::int64_t element = bytes_of(tensor.dtype);
    const ByteRange range{static_cast<std::uint64_t>(item.begin * element),
                          static_cast<std::uint64_t>(item.count * element)};
    Workspace workspace(buffer);
    const auto scratch = workspace.take(OpenCheckpoint::kScratchBytes);
    std::span<std::byte> data = workspace.take(range.bytes);
    files_.gather(tensor, {&range, 1}, scratch, data.data());
    const DType dtype = written_dtype(*item.plain, dtype_);
    if (item.plain->layer && dtype != DType::kF32) {
      const auto rounded = workspace.take(static_cast<std::uint64_t>(item.count * bytes_of(dtype)));
      encode_from_f32(reinterpret_cast<const float*>(data.data()), dtype, item.count, rounded.data());
      data = rounded;
    }
    writer.write(item.target, static_cast<std::uint64_t>(item.begin * bytes_of(dtype)), data);
    progress_.bytes_read += range.bytes;
    progress_.source_bytes_done += range.bytes;
    progress_.bytes_written += data.size();
    if (item.plain->layer) progress_.weights_done += static_cast<std::uint64_t>(item.count);
    if (item.last) ++progress_.tensors_done;
  }

  const PlainModel& model_;
  DType dtype_;
  OpenCheckpoint files_;
  ProgressCounters& progress_;
  WorkerBuffers buffers_;
  std::vector<Item> items_;
};

}  // namespace

void dequantize(FileSystem& fs, const QuantizedModel& output, const PlainModel& model,
                const std::filesystem::path& file, const DequantizeOptions& options, ProgressCounters& progress,
                const StopFlag& stop) {
  PlainWriter(fs, output, model, options, progress).write(fs, file, stop);
}

ProgressTotals dequantize_totals(const PlainModel& model) {
  ProgressTotals totals;
  for (const PlainTensor& plain : model.tensors) {
    totals.source_bytes += plain.tensor.bytes;
    if (plain.layer) totals.weights += static_cast<std::uint64_t>(plain.tensor.elements());
  }
  totals.tensors = model.tensors.size();
  return totals;
}

}  // namespace halfquad
