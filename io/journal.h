#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "io/file_system.h"

namespace halfquad {

/// An append-only file of records, each framed by length and checksum (io/FORMAT.md), written by one process. A record
/// is on stable storage once sync() returned after its append().
class JournalWriter {
 public:
  /// Creates the file; one of that name is an error (kInternal): every run writes a new one.
  JournalWriter(FileSystem& fs, const std::filesystem::path& path);
  /// @pre 1 .. kMostRecordBytes bytes. Not thread-safe.
  void append(std::span<const std::byte> record);
  void sync();
  void close();

  static constexpr std::size_t kMostRecordBytes = 64 << 20;

 private:
  std::unique_ptr<WriteFile> file_;
  std::uint64_t end_ = 0;
};

/// Calls `visit` for every intact record in order and stops at the first torn or altered frame, which is how a journal
/// ends whose writer died. Returns how many bytes were left unread behind the last intact record. Memory: one record.
std::uint64_t read_journal(FileSystem& fs, const std::filesystem::path& path,
                           const std::function<void(std::span<const std::byte>)>& visit);

}  // namespace halfquad
