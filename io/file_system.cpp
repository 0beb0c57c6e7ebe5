#include "io/file_system.h"

#include <fmt/format.h>

#include "io/aligned_scratch.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {

std::string read_text(FileSystem& fs, const FileSystem::Path& path, std::uint64_t limit_bytes) {
  const std::unique_ptr<ReadFile> file = fs.open_read(path, ReadMode::kBuffered);
  const std::uint64_t size = file->size();
  HALFQUAD_REQUIRE(size <= limit_bytes, kBadInput,
                   fmt::format("{} is {} long, more than the {} such a file may have", quoted(path.string()),
                               human_bytes(size), human_bytes(limit_bytes)));
  const AlignedScratch scratch(static_cast<std::size_t>(size));
  const std::span<std::byte> text = file->read(0, static_cast<std::size_t>(size), scratch.bytes());
  return {reinterpret_cast<const char*>(text.data()), text.size()};
}

void write_text(FileSystem& fs, const FileSystem::Path& path, const std::string& text) {
  const std::unique_ptr<WriteFile> file = fs.create(path, WriteMode::kBuffered);
  file->write(0, std::as_bytes(std::span(text)));
  file->sync();
  file->close();
}

}  // namespace halfquad
