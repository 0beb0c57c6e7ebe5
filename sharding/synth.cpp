#include "sharding/synth.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "io/json.h"
#include "io/safetensors_header.h"
#include "runtime/check.h"
#include "runtime/parallel.h"
#include "runtime/text.h"
#include "sharding/synth_fill.h"
#include "sharding/synth_model.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kBlockBytes = 8 << 20;
constexpr std::size_t kChunkBytes = 512 << 10;  // stays in the second-level cache between filling and writing

/// Fills one weight file, a block of one tensor at a time.
class FileFiller {
 public:
  FileFiller(std::uint64_t seed, DType dtype) : data_(seed, dtype) {}

  void fill(WriteFile& file, const std::vector<TensorEntry>& tensors, int threads, ProgressCounters& progress,
            const StopFlag& stop) const {
    const std::string header = serialize_safetensors_header(tensors, {{"format", "pt"}});
    file.allocate(header.size() + tensors.back().end);
    file.write(0, std::as_bytes(std::span(header)));
    std::vector<std::pair<std::size_t, std::uint64_t>> blocks;  // tensor, offset in it
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      for (std::uint64_t at = 0; at < tensors[t].bytes(); at += kBlockBytes) blocks.emplace_back(t, at);
    }
    std::vector<std::vector<std::byte>> buffers(static_cast<std::size_t>(threads));
    for (auto& buffer : buffers) buffer.resize(kChunkBytes);
    parallel_for(threads, static_cast<std::int64_t>(blocks.size()), stop, [&](int worker, std::int64_t index) {
      const auto [t, at] = blocks[static_cast<std::size_t>(index)];
      const std::uint64_t bytes = std::min(kBlockBytes, tensors[t].bytes() - at);
      write_block(file, header.size(), tensors[t], {at, bytes}, buffers[static_cast<std::size_t>(worker)]);
      progress.bytes_written += bytes;
      progress.source_bytes_done += bytes;
      if (at + bytes == tensors[t].bytes()) ++progress.tensors_done;
    });
  }

 private:
  struct Range {
    std::uint64_t offset, bytes;
  };

  void write_block(WriteFile& file, std::uint64_t data_start, const TensorEntry& tensor, Range block,
                   std::span<std::byte> chunk) const {
    const std::uint64_t place = data_start + tensor.begin + block.offset;
    for (std::uint64_t done = 0; done < block.bytes; done += kChunkBytes) {
      const auto part = chunk.first(std::min<std::uint64_t>(kChunkBytes, block.bytes - done));
      data_.fill(tensor, block.offset + done, part);
      file.write(place + done, part);
    }
    file.start_writeback(place, block.bytes);
  }

  SynthFiller data_;
};

std::filesystem::path without_trailing_slash(const std::filesystem::path& directory) {
  std::filesystem::path path = directory.lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

void require_unused(FileSystem& fs, const std::filesystem::path& directory) {
  const FileKind kind = fs.kind(directory);
  if (kind == FileKind::kMissing) return;
  HALFQUAD_REQUIRE(
      kind == FileKind::kDirectory && fs.list(directory).empty(), kUsage,
      fmt::format("{} exists already; name a new or an empty directory", halfquad::quoted(directory.string())));
}

void write_model(FileSystem& fs, const std::filesystem::path& directory, const SynthOptions& options,
                 ProgressCounters& progress, const StopFlag& stop) {
  const SynthModel model = synth_model(options);
  const FileFiller filler(options.seed, options.dtype);
  std::vector<std::unique_ptr<WriteFile>> open;
  for (const SynthFile& file : model.files) {
    open.push_back(fs.create(directory / file.name, WriteMode::kDirect));
    filler.fill(*open.back(), file.tensors, std::max(1, options.threads), progress, stop);
  }
  for (auto& file : open) {  // last, so that no file's write-back holds up the making of the next
    file->sync();
    file->close();
  }
  if (model.index) write_text(fs, directory / "model.safetensors.index.json", pretty_json(*model.index));
  write_text(fs, directory / "config.json", pretty_json(model.config));
}

}  // namespace

void synthesize(FileSystem& fs, const std::filesystem::path& directory, const SynthOptions& options,
                ProgressCounters& progress, const StopFlag& stop) {
  const std::uint64_t needed = synth_bytes(options);  // checks the options before anything is touched
  const std::filesystem::path out = without_trailing_slash(directory);
  require_unused(fs, out);
  std::filesystem::path partial = out;
  partial += ".partial";
  fs.remove_all(partial);
  fs.create_directory(partial);
  try {
    const std::uint64_t free = fs.free_bytes(partial);
    HALFQUAD_REQUIRE(free >= needed, kIo,
                     fmt::format("the model needs {} but only {} are free at {}", human_bytes(needed),
                                 human_bytes(free), halfquad::quoted(out.string())));
    write_model(fs, partial, options, progress, stop);
    fs.sync_directory(partial);
    fs.rename(partial, out);
  } catch (...) {
    fs.remove_all(partial);
    throw;
  }
  const std::filesystem::path parent = out.parent_path();
  fs.sync_directory(parent.empty() ? std::filesystem::path(".") : parent);
}

}  // namespace halfquad
