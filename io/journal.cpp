#include "io/journal.h"

#include <algorithm>
#include <array>
#include <optional>

#include <fmt/format.h>
#include <xxhash.h>

#include "io/aligned_scratch.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

constexpr std::uint32_t kMagic = 0x314C4A48;  // "HJL1"
constexpr std::size_t kMagicAt = 0;
constexpr std::size_t kLengthAt = 4;
constexpr std::size_t kDigestAt = 8;
constexpr std::size_t kFrameBytes = 16;  // before the record

void put_little_endian(std::span<std::byte> into, std::uint64_t value) {
  for (std::size_t i = 0; i < into.size(); ++i) into[i] = static_cast<std::byte>(value >> (8 * i));
}

std::uint64_t get_little_endian(std::span<const std::byte> from) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < from.size(); ++i) value |= std::to_integer<std::uint64_t>(from[i]) << (8 * i);
  return value;
}

/// The frame's place is part of the digest, so that an intact frame is not taken for one that belongs elsewhere.
std::uint64_t digest_of(std::span<const std::byte> record, std::uint64_t offset) {
  return XXH3_64bits_withSeed(record.data(), record.size(), offset);
}

std::array<std::byte, kFrameBytes> frame_of(std::span<const std::byte> record, std::uint64_t offset) {
  std::array<std::byte, kFrameBytes> frame{};
  const std::span<std::byte> bytes(frame);
  put_little_endian(bytes.subspan(kMagicAt, 4), kMagic);
  put_little_endian(bytes.subspan(kLengthAt, 4), record.size());
  put_little_endian(bytes.subspan(kDigestAt, 8), digest_of(record, offset));
  return frame;
}

/// Reads a journal front to back in pieces of a few MiB, or of one record where that is longer.
class FrameReader {
 public:
  FrameReader(FileSystem& fs, const std::filesystem::path& path)
      : file_(fs.open_read(path, ReadMode::kBuffered)), size_(file_->size()) {}

  /// The record of the intact frame at offset(), valid until the next call; nothing when there is none.
  [[nodiscard]] std::optional<std::span<const std::byte>> next() {
    if (size_ - offset_ < kFrameBytes) return std::nullopt;
    const std::span<const std::byte> head = bytes_at_offset(kFrameBytes);
    const std::uint64_t length = get_little_endian(head.subspan(kLengthAt, 4));
    const std::uint64_t digest = get_little_endian(head.subspan(kDigestAt, 8));
    if (get_little_endian(head.subspan(kMagicAt, 4)) != kMagic) return std::nullopt;
    if (length == 0 || length > JournalWriter::kMostRecordBytes) return std::nullopt;
    if (length > size_ - offset_ - kFrameBytes) return std::nullopt;
    const auto whole = static_cast<std::size_t>(kFrameBytes + length);
    const std::span<const std::byte> record = bytes_at_offset(whole).subspan(kFrameBytes);
    if (digest_of(record, offset_) != digest) return std::nullopt;
    offset_ += whole;
    return record;
  }

  [[nodiscard]] std::uint64_t bytes_left() const noexcept { return size_ - offset_; }

 private:
  /// @pre `bytes` are left.
  std::span<const std::byte> bytes_at_offset(std::size_t bytes) {
    constexpr std::uint64_t kPieceBytes = 1 << 20;
    if (offset_ + bytes > window_start_ + window_.size()) {
      const auto piece =
          static_cast<std::size_t>(std::min(size_ - offset_, std::max<std::uint64_t>(kPieceBytes, bytes)));
      if (piece > scratch_bytes_) {
        scratch_.emplace(piece);
        scratch_bytes_ = piece;
      }
      window_ = file_->read(offset_, piece, scratch_->bytes());
      window_start_ = offset_;
    }
    return window_.subspan(static_cast<std::size_t>(offset_ - window_start_), bytes);
  }

  std::unique_ptr<ReadFile> file_;
  std::uint64_t size_;
  std::uint64_t offset_ = 0;
  std::optional<AlignedScratch> scratch_;
  std::size_t scratch_bytes_ = 0;
  std::span<const std::byte> window_;  ///< What of the file is in scratch_.
  std::uint64_t window_start_ = 0;
};

}  // namespace

JournalWriter::JournalWriter(FileSystem& fs, const std::filesystem::path& path) {
  HALFQUAD_REQUIRE(fs.kind(path) == FileKind::kMissing, kInternal,
                   fmt::format("the journal {} exists already", quoted(path.string())));
  file_ = fs.create(path, WriteMode::kBuffered);
  fs.sync_directory(path.has_parent_path() ? path.parent_path() : std::filesystem::path("."));
}

void JournalWriter::append(std::span<const std::byte> record) {
  HALFQUAD_REQUIRE(!record.empty() && record.size() <= kMostRecordBytes, kInternal,
                   fmt::format("a journal record cannot have {} bytes", record.size()));
  file_->write(end_, frame_of(record, end_));
  file_->write(end_ + kFrameBytes, record);
  end_ += kFrameBytes + record.size();  // after a failed write the next record takes the place
}

void JournalWriter::sync() { file_->sync(); }

void JournalWriter::close() { file_->close(); }

std::uint64_t read_journal(FileSystem& fs, const std::filesystem::path& path,
                           const std::function<void(std::span<const std::byte>)>& visit) {
  FrameReader reader(fs, path);
  while (const std::optional<std::span<const std::byte>> record = reader.next()) visit(*record);
  return reader.bytes_left();
}

}  // namespace halfquad
