#include "io/safetensors_writer.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "io/aligned_scratch.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

using Path = std::filesystem::path;

/// Why a file is not yet, or not at all, the one to write into.
struct Obstacle {
  std::string what;
  bool may_pass = false;
};

/// Nothing when `path` is `file_bytes` long and begins with `header`.
std::optional<Obstacle> find_obstacle(FileSystem& fs, const Path& path, std::string_view header,
                                      std::uint64_t file_bytes) {
  const std::string name = quoted(path.string());
  if (fs.kind(path) == FileKind::kMissing) return Obstacle{name + " does not exist", true};
  const std::unique_ptr<ReadFile> file = fs.open_read(path, ReadMode::kBuffered);
  if (file->size() != file_bytes) {
    return Obstacle{fmt::format("{} is {} bytes long and not {}", name, file->size(), file_bytes),
                    file->size() < file_bytes};
  }
  const AlignedScratch scratch(header.size());
  const std::span<std::byte> bytes = file->read(0, header.size(), scratch.bytes());
  const std::string_view found(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto differs =
      static_cast<std::size_t>(std::mismatch(header.begin(), header.end(), found.begin()).first - header.begin());
  if (differs == header.size()) return std::nullopt;
  // The length arrives before the bytes do; until then they read as zeros.
  const bool blank = found.find_first_not_of('\0', differs) == std::string_view::npos;
  return Obstacle{fmt::format("the header of {} is not the one this job writes, from byte {} on", name, differs),
                  blank};
}

/// Makes a network file system ask its server again instead of remembering that a name is not there.
void refresh_directory(FileSystem& fs, const Path& path) {
  const Path directory = path.has_parent_path() ? path.parent_path() : Path(".");
  if (fs.kind(directory) == FileKind::kDirectory) static_cast<void>(fs.list(directory));
}

void await_file(FileSystem& fs, const Path& path, std::string_view header, std::uint64_t file_bytes,
                const AttachOptions& options) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kLongestPause{500};
  const Clock::time_point deadline = Clock::now() + options.patience;
  std::chrono::milliseconds pause{5};
  while (const std::optional<Obstacle> obstacle = find_obstacle(fs, path, header, file_bytes)) {
    HALFQUAD_REQUIRE(obstacle->may_pass, kBadInput,
                     obstacle->what + "; it belongs to another job: pass --fresh to discard it and begin anew");
    HALFQUAD_REQUIRE(
        Clock::now() < deadline, kIo,
        fmt::format("{}, after waiting {} for it; either it was cut, and --fresh begins anew, or this machine does not "
                    "see the file system it was created on",
                    obstacle->what, options.patience));
    HALFQUAD_REQUIRE(options.stop == nullptr || !options.stop->requested(), kInterrupted,
                     fmt::format("interrupted by a signal while waiting for {}", quoted(path.string())));
    std::this_thread::sleep_for(pause);
    pause = std::min(2 * pause, kLongestPause);
    refresh_directory(fs, path);
  }
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(FileSystem& fs, const std::filesystem::path& path,
                                     std::vector<TensorEntry> tensors,
                                     const std::map<std::string, std::string>& metadata, WriteMode mode) {
  const std::string header = lay_out(std::move(tensors), metadata);
  file_ = fs.create(path, mode);
  file_->allocate(file_bytes());
  file_->write(0, std::as_bytes(std::span(header)));
}

SafetensorsWriter SafetensorsWriter::attach(FileSystem& fs, const Path& path, std::vector<TensorEntry> tensors,
                                            const std::map<std::string, std::string>& metadata,
                                            const AttachOptions& options) {
  SafetensorsWriter writer;
  const std::string header = writer.lay_out(std::move(tensors), metadata);
  await_file(fs, path, header, writer.file_bytes(), options);
  writer.file_ = fs.open_write(path, options.mode);
  return writer;
}

std::string SafetensorsWriter::lay_out(std::vector<TensorEntry> tensors,
                                       const std::map<std::string, std::string>& metadata) {
  tensors_ = std::move(tensors);
  std::string header = serialize_safetensors_header(tensors_, metadata);
  data_start_ = header.size();
  data_bytes_ = tensors_.empty() ? 0 : tensors_.back().end;
  return header;
}

void SafetensorsWriter::write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data) {
  HALFQUAD_REQUIRE(tensor < tensors_.size(), kInternal, fmt::format("there is no output tensor number {}", tensor));
  const TensorEntry& entry = tensors_[tensor];
  HALFQUAD_REQUIRE(offset <= entry.bytes() && data.size() <= entry.bytes() - offset, kInternal,
                   fmt::format("{} bytes at offset {} do not fit into the {} of output tensor {}", data.size(), offset,
                               entry.bytes(), quoted(entry.name)));
  const std::uint64_t at = data_start_ + entry.begin + offset;
  file_->write(at, data);
  file_->start_writeback(at, data.size());
}

void SafetensorsWriter::sync() { file_->sync(); }

void SafetensorsWriter::finish() {
  file_->sync();
  file_->close();
}

}  // namespace halfquad
