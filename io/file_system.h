#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace halfquad {

enum class ReadMode {
  kAuto,      ///< Direct for large files that the page cache does not hold, where the file system allows it.
  kBuffered,  ///< Through the page cache.
  kDirect,    ///< Past the page cache (O_DIRECT); falls back to buffered where it is not supported.
};

enum class WriteMode {
  kBuffered,  ///< Through the page cache.
  kDirect,    ///< Large pieces past the page cache where the file system takes that; all else buffered.
};

/// An open file for reading at offsets. Thread-safe: any number of reads at once.
class ReadFile {
 public:
  virtual ~ReadFile() = default;
  [[nodiscard]] virtual std::uint64_t size() const = 0;

  /// Scratch bytes read() may need beyond `bytes` to place an aligned transfer.
  static constexpr std::size_t kSlack = 8192;

  /// Reads exactly [offset, offset + bytes) and returns where they lie inside `scratch`.
  /// @pre scratch is 4096-aligned and at least bytes + kSlack long.
  /// Throws kIo naming file and offset when the system fails or the file is shorter.
  [[nodiscard]] virtual std::span<std::byte> read(std::uint64_t offset, std::size_t bytes,
                                                  std::span<std::byte> scratch) = 0;
};

/// A file being written at offsets. Thread-safe for disjoint ranges.
class WriteFile {
 public:
  virtual ~WriteFile() = default;
  /// Sets the length and reserves the blocks, so that a full disk shows here and not hours later.
  virtual void allocate(std::uint64_t size) = 0;
  /// Writes all of `data` at `offset`. Throws kIo naming file and offset.
  virtual void write(std::uint64_t offset, std::span<const std::byte> data) = 0;
  /// Asks for write-back of what was written to begin now; a hint, without waiting for the disk.
  virtual void start_writeback(std::uint64_t offset, std::uint64_t bytes) = 0;
  /// Returns once all data is on stable storage.
  virtual void sync() = 0;
  /// Reports what closing reports (a network file system's deferred error). Idempotent; the destructor only closes.
  virtual void close() = 0;
};

enum class FileKind { kMissing, kFile, kDirectory, kOther };

/// An exclusive lock, held until destroyed; the system drops it when the process dies.
class FileLock {
 public:
  virtual ~FileLock() = default;
};

/// The only door to files: everything halfquad reads or writes passes here, so a test can make any call fail.
/// Every method throws Error(kIo) naming the path and the system's reason unless it says otherwise.
class FileSystem {
 public:
  using Path = std::filesystem::path;
  virtual ~FileSystem() = default;

  [[nodiscard]] virtual std::unique_ptr<ReadFile> open_read(const Path& path, ReadMode mode) = 0;
  /// Creates or truncates.
  [[nodiscard]] virtual std::unique_ptr<WriteFile> create(const Path& path, WriteMode mode) = 0;
  /// Opens an existing file for writing and keeps what it holds; a missing one is kIo.
  [[nodiscard]] virtual std::unique_ptr<WriteFile> open_write(const Path& path, WriteMode mode) = 0;
  /// Follows symbolic links; kMissing for a dangling one.
  [[nodiscard]] virtual FileKind kind(const Path& path) = 0;
  /// Absolute path with all symbolic links resolved. A link loop or a missing component is kIo.
  [[nodiscard]] virtual Path canonical(const Path& path) = 0;
  /// Entry names (not paths), sorted.
  [[nodiscard]] virtual std::vector<std::string> list(const Path& directory) = 0;
  /// One level; an existing directory is no error.
  virtual void create_directory(const Path& path) = 0;
  virtual void rename(const Path& from, const Path& to) = 0;
  /// Swaps two existing paths atomically; false when the file system cannot.
  [[nodiscard]] virtual bool exchange(const Path& a, const Path& b) = 0;
  /// A file or a whole tree; symbolic links are removed, not followed. Missing is no error.
  virtual void remove_all(const Path& path) = 0;
  virtual void sync_directory(const Path& path) = 0;
  /// Nothing when another process holds it.
  [[nodiscard]] virtual std::unique_ptr<FileLock> try_lock(const Path& path) = 0;
  /// Bytes an unprivileged writer may still use on the file system of `path`.
  [[nodiscard]] virtual std::uint64_t free_bytes(const Path& path) = 0;
};

/// The whole of a small text file; kBadInput naming it when it is longer than `limit_bytes`.
[[nodiscard]] std::string read_text(FileSystem& fs, const FileSystem::Path& path, std::uint64_t limit_bytes);

/// Creates `path`, writes `text`, syncs and closes it.
void write_text(FileSystem& fs, const FileSystem::Path& path, const std::string& text);

}  // namespace halfquad
