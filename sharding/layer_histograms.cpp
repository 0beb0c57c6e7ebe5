#include "sharding/layer_histograms.h"

#include <algorithm>
#include <mutex>

#include <fmt/format.h>

#include "kernels/decode.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "runtime/text.h"
#include "sharding/open_checkpoint.h"
#include "sharding/shape_text.h"
#include "sharding/stored_tile.h"

namespace halfquad {
namespace {

constexpr std::int64_t kItemElements = 1 << 20;
constexpr std::uint64_t kMostElementBytes = 8;

const PlainTensor* find_layer(const PlainModel& model, const std::string& module) {
  const auto found = std::ranges::find_if(model.tensors, [name = module + ".weight"](const PlainTensor& plain) {
    return plain.layer.has_value() && !plain.joined && plain.tensor.name == name;
  });
  return found == model.tensors.end() ? nullptr : &*found;
}

/// Elements `begin` to `begin + count` of a layer.
struct Item {
  const SourceTensor* tensor = nullptr;
  const SourceTensor* original = nullptr;
  LayerHistogram* histogram = nullptr;
  std::int64_t begin = 0, count = 0;
  bool last = false;
};

class Counter {
 public:
  Counter(FileSystem& fs, const Checkpoint& output, const Checkpoint* source, const LayerHistogramOptions& options,
          ProgressCounters& progress)
      : source_(source),
        files_(fs, output, options.read_mode),
        progress_(progress),
        buffers_(options.threads,
                 Workspace::cost(OpenCheckpoint::kScratchBytes) +
                     3 * Workspace::cost(static_cast<std::uint64_t>(kItemElements) * kMostElementBytes),
                 options.memory_bytes) {
    if (source != nullptr) source_files_.emplace(fs, *source, options.read_mode);
  }

  void add(const PlainTensor& plain, LayerHistogram& histogram) {
    const SourceTensor& tensor = plain.tensor;
    const SourceTensor* original = source_ == nullptr ? nullptr : source_->find(tensor.name);
    if (original != nullptr) {
      HALFQUAD_REQUIRE(original->shape == tensor.shape, kBadInput,
                       fmt::format("layer {} has shape {}, but the source has {}: it is not what the output was made "
                                   "from",
                                   quoted(histogram.module), shape_text(tensor.shape), shape_text(original->shape)));
      HALFQUAD_REQUIRE(is_float_source(original->dtype), kBadInput,
                       fmt::format("layer {} is {} in the source, which has no weights to compare with",
                                   quoted(histogram.module), name_of(original->dtype)));
      histogram.original.emplace();
      histogram.difference.emplace();
    }
    // Whole rows, which are what decoders read.
    const std::int64_t row = tensor.shape.back();
    const std::int64_t rows = kItemElements / row / TileGeometry::kRowStep * TileGeometry::kRowStep;
    const std::int64_t step = rows > 0 ? rows * row : kItemElements;
    const std::int64_t elements = tensor.elements();
    for (std::int64_t begin = 0; begin < elements; begin += step) {
      const std::int64_t count = std::min(step, elements - begin);
      items_.push_back({&tensor, original, &histogram, begin, count, begin + count == elements});
    }
  }

  void run(const StopFlag& stop) {
    parallel_for(
        buffers_.workers(), static_cast<std::int64_t>(items_.size()), stop,
        [&](int worker, std::int64_t index) { count(items_[static_cast<std::size_t>(index)], buffers_.of(worker)); });
  }

 private:
  /// The item's elements of `tensor` as fp32.
  std::span<float> load(const OpenCheckpoint& files, const SourceTensor& tensor, const Item& item, Workspace& workspace,
                        std::span<std::byte> scratch) {
    const std::int64_t element = bytes_of(tensor.dtype);
    const ByteRange range{static_cast<std::uint64_t>(item.begin * element),
                          static_cast<std::uint64_t>(item.count * element)};
    const std::span<std::byte> bytes = workspace.take(range.bytes);
    files.gather(tensor, {&range, 1}, scratch, bytes.data());
    progress_.bytes_read += range.bytes;
    progress_.source_bytes_done += range.bytes;
    zero_nonfinite(bytes.data(), tensor.dtype, item.count);
    const auto elements = static_cast<std::size_t>(item.count);
    if (tensor.dtype == DType::kF32) return {reinterpret_cast<float*>(bytes.data()), elements};
    auto* const values = reinterpret_cast<float*>(workspace.take(elements * sizeof(float)).data());
    decode_to_f32(bytes.data(), tensor.dtype, item.count, values);
    return {values, elements};
  }

  void count(const Item& item, std::span<std::byte> buffer) {
    Workspace workspace(buffer);
    const auto scratch = workspace.take(OpenCheckpoint::kScratchBytes);
    const std::span<float> found = load(files_, *item.tensor, item, workspace, scratch);
    LayerHistogram part;
    part.quantized.add(found);
    if (item.original != nullptr) {
      const std::span<float> wanted = load(*source_files_, *item.original, item, workspace, scratch);
      part.original.emplace().add(wanted);
      for (std::size_t i = 0; i < found.size(); ++i) found[i] -= wanted[i];
      zero_nonfinite(reinterpret_cast<std::byte*>(found.data()), DType::kF32, item.count);  // of the largest numbers
      part.difference.emplace().add(found);
    }
    progress_.weights_done += static_cast<std::uint64_t>(item.count);
    if (item.last) ++progress_.tensors_done;

    const std::lock_guard lock(mutex_);
    LayerHistogram& sum = *item.histogram;
    sum.quantized.add(part.quantized);
    if (part.original) sum.original->add(*part.original);
    if (part.difference) sum.difference->add(*part.difference);
  }

  const Checkpoint* source_;
  OpenCheckpoint files_;
  std::optional<OpenCheckpoint> source_files_;
  ProgressCounters& progress_;
  WorkerBuffers buffers_;
  std::vector<Item> items_;
  std::mutex mutex_;
};

}  // namespace

std::vector<LayerHistogram> layer_histograms(FileSystem& fs, const Checkpoint& output, const PlainModel& model,
                                             const Checkpoint* source, std::span<const std::string> modules,
                                             const LayerHistogramOptions& options, ProgressCounters& progress,
                                             const StopFlag& stop) {
  std::vector<LayerHistogram> histograms;
  histograms.reserve(modules.size());  // the counter keeps their addresses
  Counter counter(fs, output, source, options, progress);
  for (const std::string& module : modules) {
    const PlainTensor* plain = find_layer(model, module);
    if (plain == nullptr) continue;
    counter.add(*plain, histograms.emplace_back(LayerHistogram{module, {}, {}, {}}));
  }
  counter.run(stop);
  return histograms;
}

std::uint64_t layer_histogram_bytes(const PlainModel& model, const Checkpoint* source,
                                    std::span<const std::string> modules) {
  std::uint64_t bytes = 0;
  for (const std::string& module : modules) {
    const PlainTensor* plain = find_layer(model, module);
    if (plain == nullptr) continue;
    bytes += static_cast<std::uint64_t>(plain->tensor.elements() * bytes_of(plain->tensor.dtype));
    const SourceTensor* original = source == nullptr ? nullptr : source->find(plain->tensor.name);
    if (original != nullptr) bytes += static_cast<std::uint64_t>(original->elements() * bytes_of(original->dtype));
  }
  return bytes;
}

}  // namespace halfquad
