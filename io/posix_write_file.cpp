#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "io/posix_file.h"
#include "runtime/text.h"

namespace halfquad::posix {
namespace {

class PosixWriteFile final : public WriteFile {
 public:
  explicit PosixWriteFile(const std::filesystem::path& path)
      : name_(quoted(path.string())), fd_(open_or_throw(path, O_WRONLY | O_CREAT | O_TRUNC, "create")) {}

  void allocate(std::uint64_t size) override {
    const std::string what = fmt::format("cannot reserve {} ({} bytes) for {}", human_bytes(size), size, name_);
    if (retry([&] { return ::ftruncate(fd_.get(), static_cast<off_t>(size)); }) != 0) throw_io(what, errno);
    if (size == 0) return;
    // Not posix_fallocate: where the file system cannot reserve, glibc would write every block of the file instead.
    if (retry([&] { return ::fallocate(fd_.get(), 0, 0, static_cast<off_t>(size)); }) == 0) return;
    if (errno != EOPNOTSUPP && errno != ENOSYS) throw_io(what, errno);
  }

  void write(std::uint64_t offset, std::span<const std::byte> data) override {
    while (!data.empty()) {
      const std::size_t length = std::min(data.size(), kMaxTransferBytes);
      const ssize_t count = ::pwrite(fd_.get(), data.data(), length, static_cast<off_t>(offset));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) {
        throw_io(fmt::format("cannot write {} bytes to {} at offset {}", length, name_, offset),
                 count < 0 ? errno : ENOSPC);
      }
      offset += static_cast<std::uint64_t>(count);
      data = data.subspan(static_cast<std::size_t>(count));
    }
  }

  void start_writeback(std::uint64_t offset, std::uint64_t bytes) override {
    // A hint: where it is not supported, sync() does the whole of the work.
    ::sync_file_range(fd_.get(), static_cast<off_t>(offset), static_cast<off_t>(bytes), SYNC_FILE_RANGE_WRITE);
  }

  void sync() override {
    if (retry([&] { return ::fdatasync(fd_.get()); }) != 0) {
      throw_io("cannot bring " + name_ + " to stable storage", errno);
    }
  }

  void close() override {
    if (!fd_.is_open()) return;
    // After EINTR the descriptor is closed all the same; a second close could hit another thread's file.
    if (::close(fd_.release()) != 0 && errno != EINTR) throw_io("cannot close " + name_, errno);
  }

 private:
  template <class Call>
  static int retry(Call call) {
    int result = 0;
    do {
      result = call();
    } while (result != 0 && errno == EINTR);
    return result;
  }

  std::string name_;
  FileDescriptor fd_;
};

}  // namespace

std::unique_ptr<WriteFile> create_write_file(const std::filesystem::path& path) {
  return std::make_unique<PosixWriteFile>(path);
}

}  // namespace halfquad::posix
