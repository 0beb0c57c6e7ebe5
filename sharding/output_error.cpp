#include "sharding/output_error.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <deque>
#include <mutex>

#include <fmt/format.h>

#include "kernels/decode.h"
#include "runtime/buffer_pool.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "runtime/text.h"
#include "sharding/code_values.h"
#include "sharding/stored_tile.h"
#include "sharding/weight_blocks.h"

namespace halfquad {
namespace {

// A product's matrices: large enough for a BLAS to run at its speed, small beside a tile's other buffers.
constexpr std::int64_t kChunkWeights = 1 << 19;
constexpr std::int64_t kChunkOutputs = 1 << 19;
constexpr std::int64_t kMostSamples = 1 << 14;  // at once, so that a product has rows enough

struct Sums {
  double square = 0, signal2 = 0;
  void add(const Sums& other) noexcept {
    square += other.square;
    signal2 += other.signal2;
  }
};

double sum_of_squares(std::span<const float> values) noexcept {
  constexpr std::size_t kLanes = 8;
  double sums[kLanes] = {};
  std::size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (std::size_t l = 0; l < kLanes; ++l) {
      const double value = values[i + l];
      sums[l] += value * value;
    }
  }
  double total = 0;
  for (; i < values.size(); ++i) total += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  for (const double sum : sums) total += sum;
  return total;
}

/// error[i] = weights[i] - ŵ of element first + i of the tile.
void subtract_stored(const StoredTile& tile, std::int64_t first, std::span<const float> weights, float* error) {
  const bool rows = tile.element_stride == 1;  // groups lie one after the other, otherwise side by side
  const std::int64_t line = rows ? tile.group_elems : tile.groups;
  const auto count = static_cast<std::int64_t>(weights.size());
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t place = (first + done) % line;
    const std::int64_t run = std::min(count - done, line - place);
    const std::uint8_t* const codes = tile.codes + first + done;
    const float* const from = weights.data() + done;
    float* const to = error + done;
    if (rows) {
      const float scale = tile.scale[(first + done) / line];
      const float zero = tile.zero[(first + done) / line];
      const CodeValues value(tile.levels);
      for (std::int64_t i = 0; i < run; ++i) to[i] = from[i] - (value(codes[i]) - zero) * scale;
    } else {
      const float* const scale = tile.scale + place;
      const float* const zero = tile.zero + place;
      for (std::int64_t i = 0; i < run; ++i) to[i] = from[i] - (static_cast<float>(codes[i]) - zero[i]) * scale[i];
    }
    done += run;
  }
}

/// Some samples of one layer, while all its tiles are multiplied with them.
struct Batch {
  std::size_t number = 0;  ///< Of the layer.
  ActivationRange range;
  bool last = false;
  Buffer memory;
  float* inputs = nullptr;  ///< [samples, cols]
  /// [divided rows, 2, samples]: outputs, and errors of them, of rows of W whose parts lie in several tiles.
  std::span<float> divided;
  std::mutex mutex;         ///< For `divided`.
  std::vector<Sums> tiles;  ///< Of all other rows, by tile, so that they are added up in a fixed order.
};

class OutputMeter {
 public:
  OutputMeter(FileSystem& fs, const QuantizedModel& output, const Checkpoint& source,
              std::span<const OutputErrorLayer> layers, const Activations& activations,
              const OutputErrorOptions& options)
      : output_(output),
        files_(fs, output.checkpoint(), options.read_mode),
        source_files_(fs, source, options.read_mode),
        layers_(layers),
        activations_(activations),
        options_(options) {
    errors_.layers.resize(layers.size());
    divided_rows_.resize(layers.size());
    for (std::size_t i = 0; i < layers.size(); ++i) {
      errors_.layers[i].samples = activations.samples(*layers[i].layer);
      if (errors_.layers[i].samples > 0) divided_rows_[i] = divided_rows(*layers[i].layer);
    }
  }

  OutputErrors run(ProgressCounters& progress, const StopFlag& stop);

 private:
  struct Item {
    Batch* batch;
    std::int64_t tile;
  };
  /// Where a worker's parts lie while it has a tile in hand.
  struct Worker {
    StoredTile stored;
    std::span<std::byte> weights;
    std::span<float> operand;  ///< Weights of a chunk, then their errors.
    std::span<float> product;
  };
  /// Rows [first, first + rows) of a block.
  struct Chunk {
    const WeightBlock* block;
    std::int64_t first, rows;
  };

  [[nodiscard]] std::uint64_t worker_bytes(std::size_t layer) const;
  [[nodiscard]] std::uint64_t batch_bytes(std::size_t layer, std::int64_t samples) const;
  [[nodiscard]] std::int64_t samples_at_once(std::size_t layer, std::uint64_t budget) const;
  void divide_budget();
  void load(Batch& batch, std::span<std::byte> buffer);
  void measure_round(std::deque<Batch>& round, ProgressCounters& progress, const StopFlag& stop);
  void measure_tile(const Item& item, Gemm& gemm, std::span<std::byte> buffer, ProgressCounters& progress);
  void multiply(const Batch& batch, const Chunk& chunk, const Worker& worker, Gemm& gemm);
  void settle(Batch& batch, const Chunk& chunk, std::span<const float> product, Sums& sums);
  void conclude(const Batch& batch);

  const QuantizedModel& output_;
  OpenCheckpoint files_;
  OpenCheckpoint source_files_;
  std::span<const OutputErrorLayer> layers_;
  const Activations& activations_;
  const OutputErrorOptions& options_;
  std::vector<std::vector<std::int64_t>> divided_rows_;  // by layer
  std::optional<BufferPool> samples_pool_;
  std::optional<WorkerBuffers> buffers_;
  std::vector<std::unique_ptr<Gemm>> gemms_;
  std::atomic<std::uint64_t> bytes_read_{0};
  OutputErrors errors_;
};

std::uint64_t float_bytes(std::int64_t count) { return static_cast<std::uint64_t>(count) * sizeof(float); }

std::span<float> take_floats(Workspace& workspace, std::int64_t count) {
  return {reinterpret_cast<float*>(workspace.take(float_bytes(count)).data()), static_cast<std::size_t>(count)};
}

// ---- the budget: half of it for samples, the rest for workers, unless either needs more

std::uint64_t OutputMeter::worker_bytes(std::size_t layer) const {
  const StoredLayer& stored = *layers_[layer].layer;
  const std::int64_t element_bytes = bytes_of(layers_[layer].original->dtype);
  return Workspace::cost(StoredTileReader::workspace_bytes(stored)) + Workspace::cost(OpenCheckpoint::kScratchBytes) +
         Workspace::cost(total_bytes(stored.tiles.source_ranges(0, element_bytes))) +
         2 * Workspace::cost(float_bytes(kChunkWeights)) + 2 * Workspace::cost(float_bytes(kChunkOutputs));
}

std::uint64_t OutputMeter::batch_bytes(std::size_t layer, std::int64_t samples) const {
  const auto divided = static_cast<std::int64_t>(divided_rows_[layer].size());
  return Workspace::cost(float_bytes(samples * layers_[layer].layer->cols)) +
         Workspace::cost(float_bytes(samples * 2 * divided));
}

std::int64_t OutputMeter::samples_at_once(std::size_t layer, std::uint64_t budget) const {
  const std::int64_t all = errors_.layers[layer].samples;
  const std::int64_t least = std::min(all, Activations::kRangeStep);
  std::int64_t count = std::min(all, kMostSamples);
  while (count > least && batch_bytes(layer, count) > budget) {
    count = std::max(least, count / 2 / Activations::kRangeStep * Activations::kRangeStep);
  }
  return count;
}

void OutputMeter::divide_budget() {
  std::uint64_t worker = 0;
  std::uint64_t least = 0;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (errors_.layers[i].samples == 0) continue;
    worker = std::max(worker, worker_bytes(i));
    least = std::max(least, batch_bytes(i, samples_at_once(i, 0)));
  }
  if (worker == 0) return;
  const std::uint64_t budget = options_.memory_bytes;
  HALFQUAD_REQUIRE(
      worker + least <= budget, kOutOfMemory,
      fmt::format("measuring output errors needs {} of buffers for a tile and a few samples, more than the "
                  "memory budget of {}; allow more",
                  human_bytes(worker + least), human_bytes(budget)));
  const std::uint64_t samples = std::clamp(budget / 2, least, budget - worker);
  samples_pool_.emplace(samples);
  buffers_.emplace(options_.threads, worker, budget - samples);
  for (int i = 0; i < buffers_->workers(); ++i) gemms_.push_back(options_.make_gemm());
}

// ---- rounds: as many layers as the budget has samples for, all their tiles in parallel

OutputErrors OutputMeter::run(ProgressCounters& progress, const StopFlag& stop) {
  divide_budget();
  if (gemms_.empty()) return std::move(errors_);  // no layer has samples
  std::deque<Batch> round;
  std::uint64_t round_bytes = 0;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const std::int64_t all = errors_.layers[i].samples;
    for (std::int64_t first = 0; first < all;) {
      const std::int64_t count = std::min(all - first, samples_at_once(i, samples_pool_->budget_bytes()));
      const std::uint64_t bytes = batch_bytes(i, count);
      if (round_bytes + bytes > samples_pool_->budget_bytes()) {
        measure_round(round, progress, stop);
        round.clear();
        round_bytes = 0;
      }
      Batch& batch = round.emplace_back();
      batch.number = i;
      batch.range = {.layer = layers_[i].layer, .first = first, .count = count};
      batch.last = first + count == all;
      round_bytes += bytes;
      first += count;
    }
  }
  measure_round(round, progress, stop);
  errors_.bytes_read = bytes_read_;
  return std::move(errors_);
}

void OutputMeter::load(Batch& batch, std::span<std::byte> buffer) {
  const std::int64_t count = batch.range.count;
  const auto divided = static_cast<std::int64_t>(divided_rows_[batch.number].size());
  batch.memory = samples_pool_->acquire(batch_bytes(batch.number, count));
  Workspace workspace(batch.memory.bytes());
  batch.inputs = take_floats(workspace, count * batch.range.layer->cols).data();
  batch.divided = take_floats(workspace, divided * 2 * count);
  std::fill(batch.divided.begin(), batch.divided.end(), 0.0F);
  activations_.load(batch.range, Workspace(buffer).take(OpenCheckpoint::kScratchBytes), batch.inputs);
  batch.tiles.resize(static_cast<std::size_t>(batch.range.layer->tiles.tile_count()));
}

void OutputMeter::measure_round(std::deque<Batch>& round, ProgressCounters& progress, const StopFlag& stop) {
  const int workers = buffers_->workers();
  parallel_for(workers, static_cast<std::int64_t>(round.size()), stop, [&](int worker, std::int64_t index) {
    load(round[static_cast<std::size_t>(index)], buffers_->of(worker));
  });
  std::vector<Item> items;
  for (Batch& batch : round) {
    for (std::int64_t tile = 0; tile < batch.range.layer->tiles.tile_count(); ++tile) items.push_back({&batch, tile});
  }
  parallel_for(workers, static_cast<std::int64_t>(items.size()), stop, [&](int worker, std::int64_t index) {
    measure_tile(items[static_cast<std::size_t>(index)], *gemms_[static_cast<std::size_t>(worker)],
                 buffers_->of(worker), progress);
  });
  for (const Batch& batch : round) conclude(batch);
}

void OutputMeter::measure_tile(const Item& item, Gemm& gemm, std::span<std::byte> buffer, ProgressCounters& progress) {
  Batch& batch = *item.batch;
  const StoredLayer& layer = *batch.range.layer;
  const SourceTensor& original = *layers_[batch.number].original;
  Workspace workspace(buffer);
  Worker worker;
  StoredTileReader reader(output_, files_, workspace.take(StoredTileReader::workspace_bytes(layer)));
  worker.stored = reader.load(layer, item.tile);
  const auto scratch = workspace.take(OpenCheckpoint::kScratchBytes);
  worker.weights = workspace.take(static_cast<std::uint64_t>(worker.stored.elements() * bytes_of(original.dtype)));
  source_files_.gather(original, layer.tiles.source_ranges(item.tile, bytes_of(original.dtype)), scratch,
                       worker.weights.data());
  zero_nonfinite(worker.weights.data(), original.dtype, worker.stored.elements());
  worker.operand = take_floats(workspace, 2 * kChunkWeights);
  worker.product = take_floats(workspace, 2 * kChunkOutputs);

  Sums& sums = batch.tiles[static_cast<std::size_t>(item.tile)];
  for (const WeightBlock& block : weight_blocks(layer, item.tile)) {
    const std::int64_t rows = std::max<std::int64_t>(
        1, std::min(kChunkWeights / std::min(block.cols, kChunkWeights), kChunkOutputs / batch.range.count));
    for (std::int64_t first = 0; first < block.rows; first += rows) {
      const Chunk chunk{&block, first, std::min(rows, block.rows - first)};
      multiply(batch, chunk, worker, gemm);
      settle(batch, chunk, worker.product, sums);
    }
  }
  const std::uint64_t read = reader.bytes_read() + worker.weights.size();
  bytes_read_ += read;
  progress.bytes_read += read;
  if (batch.last) progress.source_bytes_done += worker.weights.size();
}

/// worker.product = the chunk's outputs, then the errors of them: [2 * rows, samples].
void OutputMeter::multiply(const Batch& batch, const Chunk& chunk, const Worker& worker, Gemm& gemm) {
  const WeightBlock& block = *chunk.block;
  const SourceTensor& original = *layers_[batch.number].original;
  for (std::int64_t col = 0; col < block.cols; col += kChunkWeights) {
    const std::int64_t cols = std::min(kChunkWeights, block.cols - col);
    for (std::int64_t i = 0; i < chunk.rows; ++i) {
      const std::int64_t element = block.offset + (chunk.first + i) * block.cols + col;
      const auto weights = worker.operand.subspan(static_cast<std::size_t>(i * cols), static_cast<std::size_t>(cols));
      decode_to_f32(worker.weights.data() + element * bytes_of(original.dtype), original.dtype, cols, weights.data());
      subtract_stored(worker.stored, element, weights, worker.operand.data() + (chunk.rows + i) * cols);
    }
    gemm.multiply({.m = 2 * chunk.rows,
                   .n = batch.range.count,
                   .k = cols,
                   .a = worker.operand.data(),
                   .a_stride = cols,
                   .b = batch.inputs + block.col + col,
                   .b_stride = batch.range.layer->cols,
                   .c = worker.product.data(),
                   .c_stride = batch.range.count,
                   .sum = col == 0 ? GemmSum::kReplace : GemmSum::kAdd});
  }
}

void OutputMeter::settle(Batch& batch, const Chunk& chunk, std::span<const float> product, Sums& sums) {
  const auto samples = static_cast<std::size_t>(batch.range.count);
  const std::size_t half = static_cast<std::size_t>(chunk.rows) * samples;
  const auto outputs = product.first(half);
  const auto errors = product.subspan(half, half);
  if (chunk.block->cols == batch.range.layer->cols) {
    sums.add({.square = sum_of_squares(errors), .signal2 = sum_of_squares(outputs)});
    return;
  }
  const std::vector<std::int64_t>& rows = divided_rows_[batch.number];
  const auto place = std::lower_bound(rows.begin(), rows.end(), chunk.block->row + chunk.first) - rows.begin();
  float* to = batch.divided.data() + static_cast<std::size_t>(place) * 2 * samples;
  const std::lock_guard lock(batch.mutex);
  for (std::size_t at = 0; at < half; at += samples, to += 2 * samples) {
    for (std::size_t j = 0; j < samples; ++j) {
      to[j] += outputs[at + j];
      to[samples + j] += errors[at + j];
    }
  }
}

void OutputMeter::conclude(const Batch& batch) {
  Sums all;
  for (const Sums& tile : batch.tiles) all.add(tile);
  const auto samples = static_cast<std::size_t>(batch.range.count);
  for (std::size_t at = 0; at < batch.divided.size(); at += 2 * samples) {
    all.add({.square = sum_of_squares(batch.divided.subspan(at + samples, samples)),
             .signal2 = sum_of_squares(batch.divided.subspan(at, samples))});
  }
  errors_.layers[batch.number].square += all.square;
  errors_.layers[batch.number].signal2 += all.signal2;
}

}  // namespace

std::optional<double> OutputError::relative() const noexcept {
  if (!(signal2 > 0) || !std::isfinite(signal2) || !std::isfinite(square)) return std::nullopt;
  return std::sqrt(square / signal2);
}

OutputErrors measure_output_errors(FileSystem& fs, const QuantizedModel& output, const Checkpoint& source,
                                   std::span<const OutputErrorLayer> layers, const Activations& activations,
                                   const OutputErrorOptions& options, ProgressCounters& progress,
                                   const StopFlag& stop) {
  return OutputMeter(fs, output, source, layers, activations, options).run(progress, stop);
}

}  // namespace halfquad
