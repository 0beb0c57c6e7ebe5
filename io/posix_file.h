#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "io/file_system.h"

// What the POSIX implementation shares between its own files; nothing outside io/posix_* includes it.
namespace halfquad::posix {

/// Longest single transfer: long enough for any device, short enough that a stop or an error shows soon.
inline constexpr std::size_t kMaxTransferBytes = std::size_t{16} << 20;

/// Owns a file descriptor. Move-only; the destructor closes without a word.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) noexcept : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor();

  [[nodiscard]] int get() const noexcept { return fd_; }
  [[nodiscard]] bool is_open() const noexcept { return fd_ >= 0; }
  /// Gives the descriptor up without closing it.
  [[nodiscard]] int release() noexcept;

 private:
  int fd_;
};

/// open(2), again after EINTR; throws kIo "cannot <action> <path>: <reason>".
[[nodiscard]] FileDescriptor open_or_throw(const std::filesystem::path& path, int flags, std::string_view action);

/// Throws kIo: "<what>: <reason>", and what to do when the reason is a full disk or a spent quota.
[[noreturn]] void throw_io(const std::string& what, int error);

[[nodiscard]] std::unique_ptr<ReadFile> open_read_file(const std::filesystem::path& path, ReadMode mode);
[[nodiscard]] std::unique_ptr<WriteFile> create_write_file(const std::filesystem::path& path, WriteMode mode);
[[nodiscard]] std::unique_ptr<WriteFile> open_write_file(const std::filesystem::path& path, WriteMode mode);

}  // namespace halfquad::posix
