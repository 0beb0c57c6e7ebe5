#include "sharding/code_histogram.h"

#include <algorithm>
#include <array>
#include <limits>
#include <mutex>
#include <numeric>

#include <fmt/format.h>

#include "kernels/quant_spec.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "runtime/text.h"
#include "sharding/open_checkpoint.h"
#include "sharding/stored_tile.h"

namespace halfquad {
namespace {

struct Item {
  CodeHistogram* histogram = nullptr;
  std::int64_t tile = 0;
  bool last = false;
};

/// What one tile adds.
struct TileCounts {
  std::array<std::uint64_t, 256> codes{};
  float least_scale = 0, most_scale = 0, least_zero = 0, most_zero = 0;

  explicit TileCounts(const StoredTile& tile) {
    for (std::int64_t i = 0; i < tile.elements(); ++i) ++codes[tile.codes[i]];
    const auto [scale, scale_end] = std::minmax_element(tile.scale, tile.scale + tile.groups);
    const auto [zero, zero_end] = std::minmax_element(tile.zero, tile.zero + tile.groups);
    least_scale = *scale;
    most_scale = *scale_end;
    least_zero = *zero;
    most_zero = *zero_end;
  }
};

}  // namespace

std::vector<CodeHistogram> code_histograms(FileSystem& fs, const QuantizedModel& output,
                                           std::span<const std::size_t> layers, const HistogramOptions& options,
                                           ProgressCounters& progress, const StopFlag& stop) {
  constexpr float kHuge = std::numeric_limits<float>::infinity();
  std::vector<CodeHistogram> histograms;
  std::uint64_t workspace = 0;
  for (const std::size_t index : layers) {
    const StoredLayer& layer = output.layers()[index];
    const auto codes = static_cast<std::size_t>(layer.spec.largest_code()) + 1;
    histograms.push_back({index, std::vector<std::uint64_t>(codes), kHuge, -kHuge, kHuge, -kHuge});
    workspace = std::max(workspace, StoredTileReader::workspace_bytes(layer));
  }
  std::vector<Item> items;
  for (CodeHistogram& histogram : histograms) {
    const std::int64_t tiles = output.layers()[histogram.layer].tiles.tile_count();
    for (std::int64_t tile = 0; tile < tiles; ++tile) items.push_back({&histogram, tile, tile + 1 == tiles});
  }
  if (items.empty()) return histograms;

  const OpenCheckpoint files(fs, output.checkpoint(), options.read_mode);
  const WorkerBuffers buffers(options.threads, workspace, options.memory_bytes);
  std::mutex mutex;
  parallel_for(buffers.workers(), static_cast<std::int64_t>(items.size()), stop, [&](int worker, std::int64_t index) {
    const Item& item = items[static_cast<std::size_t>(index)];
    CodeHistogram& histogram = *item.histogram;
    const StoredLayer& layer = output.layers()[histogram.layer];
    StoredTileReader reader(output, files, buffers.of(worker));
    const StoredTile tile = reader.load(layer, item.tile);
    const TileCounts found(tile);
    const auto beyond = std::span(found.codes).subspan(histogram.counts.size());
    HALFQUAD_REQUIRE(std::ranges::all_of(beyond, [](std::uint64_t count) { return count == 0; }), kBadInput,
                     fmt::format("layer {} holds a code beyond {}", quoted(layer.module), histogram.counts.size() - 1));
    progress.bytes_read += reader.bytes_read();
    progress.source_bytes_done += reader.bytes_read();
    progress.weights_done += static_cast<std::uint64_t>(tile.elements());
    if (item.last) ++progress.tensors_done;

    const std::lock_guard lock(mutex);
    for (std::size_t code = 0; code < histogram.counts.size(); ++code) histogram.counts[code] += found.codes[code];
    histogram.least_scale = std::min(histogram.least_scale, found.least_scale);
    histogram.most_scale = std::max(histogram.most_scale, found.most_scale);
    histogram.least_zero = std::min(histogram.least_zero, found.least_zero);
    histogram.most_zero = std::max(histogram.most_zero, found.most_zero);
  });
  return histograms;
}

}  // namespace halfquad
