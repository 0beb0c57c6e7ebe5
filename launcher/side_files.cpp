#include "launcher/side_files.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>

#include "runtime/buffer_pool.h"
#include "runtime/error.h"

namespace halfquad {
namespace {

constexpr std::size_t kCopyBytes = 1 << 20;

void copy_file(FileSystem& fs, const std::filesystem::path& from, const std::filesystem::path& to,
               std::span<std::byte> scratch) {
  const std::unique_ptr<ReadFile> source = fs.open_read(from, ReadMode::kBuffered);
  const std::unique_ptr<WriteFile> target = fs.create(to, WriteMode::kBuffered);
  for (std::uint64_t offset = 0; offset < source->size(); offset += kCopyBytes) {
    const std::uint64_t bytes = std::min<std::uint64_t>(kCopyBytes, source->size() - offset);
    target->write(offset, source->read(offset, static_cast<std::size_t>(bytes), scratch));
  }
  target->sync();
  target->close();
}

/// Has `write` make the file `name` of `out` in a folder that is there.
void in_its_folder(FileSystem& fs, const std::string& name, const OutputDirectory& out,
                   const std::function<void(const std::filesystem::path&)>& write) {
  const std::filesystem::path folder = std::filesystem::path(name).parent_path();
  std::filesystem::path made;
  for (const std::filesystem::path& part : folder) {
    made /= part;
    fs.create_directory(out.path_of(made.string()));
  }
  write(out.path_of(name));
  if (!folder.empty()) fs.sync_directory(out.path_of(folder.string()));
}

}  // namespace

std::size_t copy_side_files(FileSystem& fs, const Checkpoint& checkpoint, const OutputDirectory& out) {
  BufferPool pool(2 * (kCopyBytes + ReadFile::kSlack));
  const Buffer scratch = pool.acquire(kCopyBytes + ReadFile::kSlack);
  std::size_t copied = 0;
  for (const std::string& name : checkpoint.side_files()) {
    in_its_folder(fs, name, out, [&](const std::filesystem::path& to) {
      copy_file(fs, checkpoint.directory() / name, to, scratch.bytes());
    });
    ++copied;
  }
  return copied;
}

void copy_enclosed_files(FileSystem& fs, std::span<const EnclosedFile> files, const OutputDirectory& out) {
  for (const EnclosedFile& file : files) {
    in_its_folder(fs, file.name, out,
                  [&](const std::filesystem::path& to) { write_text(fs, to, read_enclosed(fs, file)); });
  }
}

void fill_and_commit(OutputDirectory& out, const std::function<void()>& fill) {
  try {
    fill();
    out.commit();
  } catch (const Error& error) {
    discard_quietly(out);
    if (error.code() != ErrorCode::kInterrupted) throw;
    throw Error(ErrorCode::kInterrupted, "interrupted by a signal: no output was written; run the same command again");
  } catch (...) {
    discard_quietly(out);
    throw;
  }
}

void discard_quietly(OutputDirectory& out) noexcept {
  try {
    out.discard();
  } catch (const Error&) {  // the next run discards it
  }
}

}  // namespace halfquad
