#include "io/torch_zip.h"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "io/aligned_scratch.h"
#include "runtime/check.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

// The layout is APPNOTE.TXT's of PKWARE, sections 4.3.7 to 4.3.16 and 4.5.3.
constexpr std::string_view kLocalMark = "PK\x03\x04", kEntryMark = "PK\x01\x02", kEndMark = "PK\x05\x06",
                           kEnd64Mark = "PK\x06\x06", kLocator64Mark = "PK\x06\x07";
constexpr std::uint64_t kLocalBytes = 30, kEntryBytes = 46, kEndBytes = 22, kEnd64Bytes = 56, kLocator64Bytes = 20;
constexpr std::uint64_t kMaxCommentBytes = 0xFFFF;
constexpr std::uint64_t kMaxDirectoryBytes = std::uint64_t{256} << 20;
constexpr std::uint64_t kElsewhere16 = 0xFFFF, kElsewhere32 = 0xFFFF'FFFF;
constexpr std::uint64_t kZip64Tag = 1;
constexpr std::uint64_t kEncrypted = 1;

/// A little-endian number. @pre it lies in the text
std::uint64_t number(std::string_view text, std::uint64_t at, int bytes) {
  std::uint64_t value = 0;
  for (int i = bytes; i-- > 0;)
    value = value << 8U | static_cast<unsigned char>(text[at + static_cast<std::uint64_t>(i)]);
  return value;
}

[[noreturn]] void refuse(std::string_view file, std::string_view why) {
  throw Error(ErrorCode::kBadInput, fmt::format("{}: {}", quoted(file), why));
}

std::string read_range(ReadFile& archive, std::uint64_t offset, std::uint64_t bytes) {
  if (bytes == 0) return {};
  const AlignedScratch scratch(bytes);
  const std::span<const std::byte> data = archive.read(offset, bytes, scratch.bytes());
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

struct Directory {
  std::uint64_t offset = 0, bytes = 0, entries = 0;
};

Directory find_directory64(ReadFile& archive, std::uint64_t end, std::string_view file) {
  if (end < kLocator64Bytes) refuse(file, "the zip64 record of the archive's end is missing");
  const std::string locator = read_range(archive, end - kLocator64Bytes, kLocator64Bytes);
  if (!locator.starts_with(kLocator64Mark)) refuse(file, "the zip64 record of the archive's end is missing");
  const std::uint64_t at = number(locator, 8, 8);
  const std::uint64_t before = end - kLocator64Bytes;
  if (number(locator, 16, 4) > 1) refuse(file, "the archive has several volumes");
  if (before < kEnd64Bytes || at > before - kEnd64Bytes) refuse(file, "the zip64 record lies outside the file");
  const std::string record = read_range(archive, at, kEnd64Bytes);
  if (!record.starts_with(kEnd64Mark)) refuse(file, "the zip64 record of the archive's end is missing");
  if (number(record, 16, 4) != 0 || number(record, 20, 4) != 0) refuse(file, "the archive has several volumes");
  const Directory directory{number(record, 48, 8), number(record, 40, 8), number(record, 32, 8)};
  if (directory.offset > at || directory.bytes > at - directory.offset) {
    refuse(file, "the archive's directory lies outside the file");
  }
  return directory;
}

Directory find_directory(ReadFile& archive, std::string_view file) {
  const std::uint64_t size = archive.size();
  if (size < kEndBytes) refuse(file, "too few bytes for a zip archive; download or copy it again");
  const std::uint64_t tail_bytes = std::min(size, kEndBytes + kMaxCommentBytes);
  const std::string tail = read_range(archive, size - tail_bytes, tail_bytes);
  std::size_t at = tail.size() - kEndBytes;
  // The comment's length has to lead to the end of the file, so that a mark within a comment is not taken for the
  // end's.
  const auto is_end = [&](std::size_t i) {
    return std::string_view(tail).substr(i).starts_with(kEndMark) &&
           number(tail, i + 20, 2) == tail.size() - kEndBytes - i;
  };
  while (at > 0 && !is_end(at)) --at;
  if (!is_end(at))
    refuse(file, "the record of a zip archive's end is missing; the file is cut short, download or copy it again");
  const std::uint64_t end = size - tail_bytes + at;
  const Directory directory{number(tail, at + 16, 4), number(tail, at + 12, 4), number(tail, at + 10, 2)};
  if (directory.offset == kElsewhere32 || directory.bytes == kElsewhere32 || directory.entries == kElsewhere16) {
    return find_directory64(archive, end, file);
  }
  if (number(tail, at + 4, 2) != 0 || number(tail, at + 6, 2) != 0) refuse(file, "the archive has several volumes");
  if (directory.offset > end || directory.bytes > end - directory.offset) {
    refuse(file, "the archive's directory lies outside the file");
  }
  return directory;
}

/// The zip64 field among an entry's extra fields; empty when there is none.
std::string_view zip64_field(std::string_view extra) {
  while (extra.size() >= 4) {
    const std::uint64_t bytes = number(extra, 2, 2);
    if (bytes > extra.size() - 4) return {};
    if (number(extra, 0, 2) == kZip64Tag) return extra.substr(4, bytes);
    extra.remove_prefix(4 + bytes);
  }
  return {};
}

class DirectoryReader {
 public:
  DirectoryReader(std::string_view text, std::string_view file) : rest_(text), file_(file) {}

  [[nodiscard]] bool done() const { return rest_.empty(); }

  ZipEntry next() {
    if (rest_.size() < kEntryBytes || !rest_.starts_with(kEntryMark))
      refuse(file_, "the archive's directory is damaged");
    const std::uint64_t name_bytes = number(rest_, 28, 2), extra_bytes = number(rest_, 30, 2);
    const std::uint64_t all_bytes = kEntryBytes + name_bytes + extra_bytes + number(rest_, 32, 2);
    if (all_bytes > rest_.size()) refuse(file_, "the archive's directory is damaged");
    ZipEntry entry;
    entry.name = rest_.substr(kEntryBytes, name_bytes);
    if ((number(rest_, 8, 2) & kEncrypted) != 0) refuse_entry(entry, "is encrypted");
    if (number(rest_, 10, 2) != 0) refuse_entry(entry, "is compressed; torch.save() stores entries as they are");
    std::string_view wide = zip64_field(rest_.substr(kEntryBytes + name_bytes, extra_bytes));
    // The field holds just the numbers that do not fit, in this order.
    const std::uint64_t unpacked = widened(number(rest_, 24, 4), wide, entry);
    entry.bytes = widened(number(rest_, 20, 4), wide, entry);
    entry.header = widened(number(rest_, 42, 4), wide, entry);
    if (unpacked != entry.bytes) refuse_entry(entry, "is stored in a size that is not its own");
    rest_.remove_prefix(all_bytes);
    return entry;
  }

 private:
  [[noreturn]] void refuse_entry(const ZipEntry& entry, std::string_view why) const {
    refuse(file_, fmt::format("the archive's entry {} {}", quoted(entry.name), why));
  }

  std::uint64_t widened(std::uint64_t value, std::string_view& wide, const ZipEntry& entry) const {
    if (value != kElsewhere32) return value;
    if (wide.size() < 8) refuse_entry(entry, "lacks the sizes of a zip64 archive");
    value = number(wide, 0, 8);
    wide.remove_prefix(8);
    return value;
  }

  std::string_view rest_;
  std::string_view file_;
};

}  // namespace

std::vector<ZipEntry> read_zip_directory(ReadFile& archive, std::string_view file) {
  const Directory directory = find_directory(archive, file);
  if (directory.bytes > kMaxDirectoryBytes) {
    refuse(file, fmt::format("the archive's directory of {} is longer than is sensible", human_bytes(directory.bytes)));
  }
  const std::string text = read_range(archive, directory.offset, directory.bytes);
  std::vector<ZipEntry> entries;
  std::set<std::string, std::less<>> names;
  for (DirectoryReader reader(text, file); !reader.done();) {
    entries.push_back(reader.next());
    const std::string& name = entries.back().name;
    if (!names.insert(name).second) refuse(file, fmt::format("the archive holds {} twice", quoted(name)));
  }
  if (entries.size() != directory.entries) {
    refuse(file,
           fmt::format("the archive's directory holds {} entries instead of {}", entries.size(), directory.entries));
  }
  return entries;
}

std::uint64_t zip_data_offset(ReadFile& archive, const ZipEntry& entry, std::string_view file) {
  const std::uint64_t size = archive.size();
  const std::string name = quoted(entry.name);
  if (size < kLocalBytes || entry.header > size - kLocalBytes) {
    refuse(file, fmt::format("the archive's entry {} lies outside the file", name));
  }
  const std::string local = read_range(archive, entry.header, kLocalBytes);
  if (!local.starts_with(kLocalMark)) refuse(file, fmt::format("the archive's entry {} has no header", name));
  const std::uint64_t offset = entry.header + kLocalBytes + number(local, 26, 2) + number(local, 28, 2);
  if (offset > size || entry.bytes > size - offset) {
    refuse(file, fmt::format("the archive's entry {} lies outside the file", name));
  }
  return offset;
}

}  // namespace halfquad
