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

std::vector<std::size_t> find_nonfinite_tensors(FileSystem& fs, const Checkpoint& checkpoint,
                                                std::span<const std::size_t> tensors, int threads, ReadMode mode,
                                                ProgressCounters& progress, const StopFlag& stop) {
  struct Block {
    std::size_t entry;  // of `tensors`
    ByteRange range;
  };
  std::vector<Block> blocks;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const SourceTensor& tensor = checkpoint.tensors()[tensors[i]];
    if (!is_float_source(tensor.dtype)) continue;
    for (std::uint64_t at = 0; at < tensor.bytes; at += kBlockBytes) {
      blocks.push_back({i, {at, std::min(kBlockBytes, tensor.bytes - at)}});
    }
  }

  const OpenCheckpoint files(fs, checkpoint, mode);
  const WorkerBuffers buffers(threads, kWorkerBytes, kWorkerBytes * static_cast<std::uint64_t>(std::max(1, threads)));
  std::vector<std::atomic<bool>> found(tensors.size());
  parallel_for(buffers.workers(), static_cast<std::int64_t>(blocks.size()), stop, [&](int worker, std::int64_t index) {
    const Block& block = blocks[static_cast<std::size_t>(index)];
    progress.source_bytes_done += block.range.bytes;
    if (found[block.entry]) return;  // one is enough
    const SourceTensor& tensor = checkpoint.tensors()[tensors[block.entry]];
    Workspace workspace(buffers.of(worker));
    const auto scratch = workspace.take(OpenCheckpoint::kScratchBytes);
    const auto data = workspace.take(block.range.bytes);
    files.gather(tensor, {&block.range, 1}, scratch, data.data());
    progress.bytes_read += block.range.bytes;
    const auto count = static_cast<std::int64_t>(block.range.bytes) / bytes_of(tensor.dtype);
    if (find_nonfinite(data.data(), tensor.dtype, count)) found[block.entry] = true;
  });

  std::vector<std::size_t> result;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (found[i]) result.push_back(tensors[i]);
  }
  std::sort(result.begin(), result.end());
  return result;
}

}  // namespace halfquad
