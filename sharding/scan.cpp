#include "sharding/scan.h"

#include <algorithm>
#include <atomic>

#include "kernels/decode.h"
#include "runtime/parallel.h"
#include "sharding/stored_tile.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kBlockBytes = 2 << 20;
constexpr std::uint64_t kWorkerBytes = OpenCheckpoint::kScratchBytes + kBlockBytes;

}  // namespace

NonfiniteScan::NonfiniteScan(const Checkpoint& checkpoint, std::span<const std::size_t> tensors)
    : checkpoint_(checkpoint) {
  for (const std::size_t index : tensors) {
    const SourceTensor& tensor = checkpoint.tensors()[index];
    if (!is_float_source(tensor.dtype)) continue;
    for (std::uint64_t at = 0; at < tensor.bytes; at += kBlockBytes) {
      blocks_.push_back({index, {at, std::min(kBlockBytes, tensor.bytes - at)}});
    }
  }
}

std::span<const NonfiniteScan::Block> NonfiniteScan::blocks_of(Part part) const noexcept {
  const auto index = static_cast<std::size_t>(part.index), count = static_cast<std::size_t>(part.count);
  const std::size_t begin = blocks_.size() * index / count;
  const std::size_t end = blocks_.size() * (index + 1) / count;
  return std::span(blocks_).subspan(begin, end - begin);
}

std::vector<std::size_t> NonfiniteScan::find(FileSystem& fs, Part part, int threads, ReadMode mode,
                                             ProgressCounters& progress, const StopFlag& stop) const {
  const std::span<const Block> blocks = blocks_of(part);
  const OpenCheckpoint files(fs, checkpoint_, mode);
  const WorkerBuffers buffers(threads, kWorkerBytes, kWorkerBytes * static_cast<std::uint64_t>(std::max(1, threads)));
  std::vector<std::atomic<bool>> found(checkpoint_.tensors().size());
  parallel_for(buffers.workers(), static_cast<std::int64_t>(blocks.size()), stop, [&](int worker, std::int64_t index) {
    const Block& block = blocks[static_cast<std::size_t>(index)];
    progress.source_bytes_done += block.range.bytes;
    if (found[block.tensor]) return;  // one is enough
    const SourceTensor& tensor = checkpoint_.tensors()[block.tensor];
    Workspace workspace(buffers.of(worker));
    const auto scratch = workspace.take(OpenCheckpoint::kScratchBytes);
    const auto data = workspace.take(block.range.bytes);
    try {
      files.gather(tensor, {&block.range, 1}, scratch, data.data());
    } catch (const Error& error) {
      throw while_reading(tensor, error);
    }
    progress.bytes_read += block.range.bytes;
    const auto count = static_cast<std::int64_t>(block.range.bytes) / bytes_of(tensor.dtype);
    if (find_nonfinite(data.data(), tensor.dtype, count)) found[block.tensor] = true;
  });

  std::vector<std::size_t> result;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (found[i]) result.push_back(i);
  }
  return result;
}

}  // namespace halfquad
