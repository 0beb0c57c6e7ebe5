#include "sharding/open_checkpoint.h"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "runtime/buffer_pool.h"
#include "runtime/checked.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

/// Between two ranges, what is read along with them sooner than another request is made.
constexpr std::uint64_t kLongestGap = 16 << 10;

std::uint64_t end_of(const ByteRange& range) { return range.offset + range.bytes; }

/// How many of the first ranges lie so near each other that one request is for all of them.
std::size_t read_at_once(std::span<const ByteRange> ranges, std::uint64_t most_bytes) {
  std::size_t count = 1;
  while (count < ranges.size() && ranges[count].offset >= end_of(ranges[count - 1]) &&
         ranges[count].offset - end_of(ranges[count - 1]) <= kLongestGap &&
         end_of(ranges[count]) - ranges.front().offset <= most_bytes) {
    ++count;
  }
  return count;
}

void read_range(ReadFile& file, std::uint64_t start, const ByteRange& range, std::span<std::byte> scratch,
                std::byte* out) {
  for (std::uint64_t done = 0; done < range.bytes;) {
    const std::uint64_t bytes = std::min<std::uint64_t>(scratch.size() - ReadFile::kSlack, range.bytes - done);
    const auto data = file.read(start + range.offset + done, bytes, scratch);
    std::memcpy(out + done, data.data(), data.size());
    done += bytes;
  }
}

}  // namespace

OpenCheckpoint::OpenCheckpoint(FileSystem& fs, const Checkpoint& checkpoint, ReadMode mode) {
  for (const SourceFile& file : checkpoint.files()) files_.push_back(fs.open_read(file.path, mode));
}

std::uint64_t scratch_bytes(std::uint64_t bytes) noexcept {
  return round_up<std::uint64_t>(bytes + ReadFile::kSlack, BufferPool::kAlignment);
}

void gather_ranges(ReadFile& file, std::uint64_t start, std::span<const ByteRange> ranges, std::span<std::byte> scratch,
                   std::byte* out) {
  while (!ranges.empty()) {
    const std::size_t count = read_at_once(ranges, scratch.size() - ReadFile::kSlack);
    if (count > 1) {
      const std::uint64_t begin = ranges.front().offset;
      const auto data = file.read(start + begin, end_of(ranges[count - 1]) - begin, scratch);
      for (const ByteRange& range : ranges.first(count)) {
        std::memcpy(out, data.data() + (range.offset - begin), range.bytes);
        out += range.bytes;
      }
    } else {
      read_range(file, start, ranges.front(), scratch, out);
      out += ranges.front().bytes;
    }
    ranges = ranges.subspan(count);
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
