#include "io/image_writer.h"

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

constexpr std::size_t kWritebackBytes = 64 << 10;

/// Why a file is not yet, or not at all, the one to write into.
struct Obstacle {
  std::string what;
  bool may_pass = false;
};

/// Where the file's bytes from `offset` on first differ from `wanted`, and whether only zeros are there.
struct Difference {
  std::uint64_t offset = 0;
  bool blank = false;
};

std::optional<Difference> find_difference(ReadFile& file, const FileImage::Fixed& wanted) {
  constexpr std::size_t kPiece = 1 << 20;
  const AlignedScratch scratch(std::min(kPiece, wanted.bytes.size()));
  for (std::size_t done = 0; done < wanted.bytes.size(); done += kPiece) {
    const std::string_view part = std::string_view(wanted.bytes).substr(done, kPiece);
    const std::span<std::byte> bytes = file.read(wanted.offset + done, part.size(), scratch.bytes());
    const std::string_view found(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const auto at =
        static_cast<std::size_t>(std::mismatch(part.begin(), part.end(), found.begin()).first - part.begin());
    // The length arrives before the bytes do; until then they read as zeros.
    if (at < part.size()) {
      return Difference{wanted.offset + done + at, found.find_first_not_of('\0', at) == std::string_view::npos};
    }
  }
  return std::nullopt;
}

/// Nothing when `path` has the length and the fixed bytes of `image`.
std::optional<Obstacle> find_obstacle(FileSystem& fs, const Path& path, const FileImage& image) {
  const std::string name = quoted(path.string());
  if (fs.kind(path) == FileKind::kMissing) return Obstacle{name + " does not exist", true};
  const std::unique_ptr<ReadFile> file = fs.open_read(path, ReadMode::kBuffered);
  if (file->size() != image.bytes) {
    return Obstacle{fmt::format("{} is {} bytes long and not {}", name, file->size(), image.bytes),
                    file->size() < image.bytes};
  }
  for (const FileImage::Fixed& fixed : image.fixed) {
    if (const std::optional<Difference> difference = find_difference(*file, fixed)) {
      return Obstacle{
          fmt::format("the header of {} is not the one this job writes, from byte {} on", name, difference->offset),
          difference->blank};
    }
  }
  return std::nullopt;
}

/// Makes a network file system ask its server again instead of remembering that a name is not there.
void refresh_directory(FileSystem& fs, const Path& path) {
  const Path directory = path.has_parent_path() ? path.parent_path() : Path(".");
  if (fs.kind(directory) == FileKind::kDirectory) static_cast<void>(fs.list(directory));
}

void await_file(FileSystem& fs, const Path& path, const FileImage& image, const AttachOptions& options) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kLongestPause{500};
  const Clock::time_point deadline = Clock::now() + options.patience;
  std::chrono::milliseconds pause{5};
  while (const std::optional<Obstacle> obstacle = find_obstacle(fs, path, image)) {
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

ImageWriter::ImageWriter(FileImage image, std::vector<Slot> slots)
    : image_(std::move(image)), slots_(std::move(slots)) {
  HALFQUAD_REQUIRE(image_.offsets.size() == slots_.size(), kInternal, "a file's image and its tensors do not agree");
}

ImageWriter::ImageWriter(FileSystem& fs, const Path& path, FileImage image, std::vector<Slot> slots, WriteMode mode)
    : ImageWriter(std::move(image), std::move(slots)) {
  file_ = fs.create(path, mode);
  file_->allocate(file_bytes());
  for (const FileImage::Fixed& fixed : image_.fixed) file_->write(fixed.offset, std::as_bytes(std::span(fixed.bytes)));
}

ImageWriter ImageWriter::attach(FileSystem& fs, const Path& path, FileImage image, std::vector<Slot> slots,
                                const AttachOptions& options) {
  ImageWriter writer(std::move(image), std::move(slots));
  await_file(fs, path, writer.image_, options);
  writer.file_ = fs.open_write(path, options.mode);
  return writer;
}

void ImageWriter::write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data) {
  HALFQUAD_REQUIRE(tensor < slots_.size(), kInternal, fmt::format("there is no output tensor number {}", tensor));
  const Slot& slot = slots_[tensor];
  HALFQUAD_REQUIRE(offset <= slot.bytes && data.size() <= slot.bytes - offset, kInternal,
                   fmt::format("{} bytes at offset {} do not fit into the {} of output tensor {}", data.size(), offset,
                               slot.bytes, quoted(slot.name)));
  const std::uint64_t at = image_.offsets[tensor] + offset;
  file_->write(at, data);
  // The pages of small pieces get more of them soon, and are written when they are synced.
  if (data.size() >= kWritebackBytes) file_->start_writeback(at, data.size());
}

void ImageWriter::sync() { file_->sync(); }

void ImageWriter::finish() {
  file_->sync();
  file_->close();
}

}  // namespace halfquad
