#include "sharding/open_checkpoint.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::uint64_t kMaxReadBytes = OpenCheckpoint::kScratchBytes - ReadFile::kSlack;

}  // namespace

OpenCheckpoint::OpenCheckpoint(FileSystem& fs, const Checkpoint& checkpoint, ReadMode mode) {
  for (const SourceFile& file : checkpoint.files()) files_.push_back(fs.open_read(file.path, mode));
}

void gather_ranges(ReadFile& file, std::uint64_t start, std::span<const ByteRange> ranges, std::span<std::byte> scratch,
                   std::byte* out) {
  for (const ByteRange& range : ranges) {
    for (std::uint64_t done = 0; done < range.bytes;) {
      const std::uint64_t bytes = std::min(kMaxReadBytes, range.bytes - done);
      const auto data = file.read(start + range.offset + done, bytes, scratch);
      std::memcpy(out, data.data(), data.size());
      out += bytes;
      done += bytes;
    }
  }
}

void OpenCheckpoint::gather(const SourceTensor& tensor, std::span<const ByteRange> ranges, std::span<std::byte> scratch,
                            std::byte* out) const {
  if (tensor.decoder == nullptr) {
    return gather_ranges(*files_[static_cast<std::size_t>(tensor.file)], tensor.offset, ranges, scratch, out);
  }
  for (const ByteRange& range : ranges) {
    tensor.decoder->read(files_, range, scratch, out);
    out += range.bytes;
  }
}

Error while_reading(const SourceTensor& tensor, const Error& error) {
  return {error.code(), fmt::format("tensor {}: {}", quoted(tensor.name), error.what()), error.where()};
}

}  // namespace halfquad
