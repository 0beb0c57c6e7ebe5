#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <fcntl.h>
#include <unistd.h>
#include <utility>

#include <fmt/format.h>

#include "io/aligned_scratch.h"
#include "io/posix_file.h"
#include "runtime/checked.h"
#include "runtime/text.h"

namespace halfquad::posix {
namespace {

class PosixWriteFile final : public WriteFile {
 public:
  // Never O_RDWR: a network file system might then fill a page up from its server before the page's other bytes, which
  // another node writes, have arrived there, and send the whole of it back later.
  PosixWriteFile(const std::filesystem::path& path, WriteMode mode, FileDescriptor fd)
      : name_(quoted(path.string())),
        fd_(std::move(fd)),
        direct_fd_(mode == WriteMode::kDirect ? ::open(path.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC) : -1),
        direct_(direct_fd_.is_open()) {}

  void allocate(std::uint64_t size) override {
    const std::string what = fmt::format("cannot reserve {} ({} bytes) for {}", human_bytes(size), size, name_);
    if (retry([&] { return ::ftruncate(fd_.get(), static_cast<off_t>(size)); }) != 0) throw_io(what, errno);
    if (size == 0) return;
    // Not posix_fallocate: where the file system cannot reserve, glibc would write every block of the file instead.
    if (retry([&] { return ::fallocate(fd_.get(), 0, 0, static_cast<off_t>(size)); }) == 0) return;
    if (errno != EOPNOTSUPP && errno != ENOSYS) throw_io(what, errno);
  }

  void write(std::uint64_t offset, std::span<const std::byte> data) override {
    if (direct_.load(std::memory_order_relaxed) && data.size() >= kDirectBytes) {
      const std::size_t head = round_up<std::uint64_t>(offset, kBlock) - offset;
      const std::size_t body = (data.size() - head) / kBlock * kBlock;
      write_all(fd_, offset, data.first(head));
      write_blocks(offset + head, data.subspan(head, body));
      offset += head + body;
      data = data.subspan(head + body);
    }
    write_all(fd_, offset, data);
  }

  void start_writeback(std::uint64_t offset, std::uint64_t bytes) override {
    // Most of it went past the cache. The rest is better sent in few requests by sync() than here in many small ones.
    if (direct_.load(std::memory_order_relaxed)) return;
    // A hint: where it is not supported, sync() does the whole of the work.
    ::sync_file_range(fd_.get(), static_cast<off_t>(offset), static_cast<off_t>(bytes), SYNC_FILE_RANGE_WRITE);
  }

  void sync() override {
    if (retry([&] { return ::fdatasync(fd_.get()); }) != 0) {
      throw_io("cannot bring " + name_ + " to stable storage", errno);
    }
  }

  void close() override {
    direct_fd_ = FileDescriptor();
    if (!fd_.is_open()) return;
    // After EINTR the descriptor is closed all the same; a second close could hit another thread's file.
    if (::close(fd_.release()) != 0 && errno != EINTR) throw_io("cannot close " + name_, errno);
  }

 private:
  static constexpr std::uint64_t kBlock = 4096;
  // Below this the page cache costs less than two more requests.
  static constexpr std::size_t kDirectBytes = 256 << 10;
  static constexpr std::size_t kCopyBytes = 1 << 20;

  // Whole blocks, past the page cache. From memory that does not begin at a multiple of one they are copied first: even
  // so that costs less than the cache's pages.
  void write_blocks(std::uint64_t offset, std::span<const std::byte> blocks) {
    if (reinterpret_cast<std::uintptr_t>(blocks.data()) % kBlock == 0) return write_all(direct_fd_, offset, blocks);
    thread_local const AlignedScratch copy(kCopyBytes);
    const std::span<std::byte> to = copy.bytes();
    for (std::size_t done = 0; done < blocks.size(); done += kCopyBytes) {
      const std::span<const std::byte> from = blocks.subspan(done, std::min(kCopyBytes, blocks.size() - done));
      std::ranges::copy(from, to.begin());
      write_all(direct_fd_, offset + done, to.first(from.size()));
    }
  }

  void write_all(const FileDescriptor& file, std::uint64_t offset, std::span<const std::byte> data) {
    const FileDescriptor* to = &file;
    while (!data.empty()) {
      const std::size_t length = std::min(data.size(), kMaxTransferBytes);
      const ssize_t count = ::pwrite(to->get(), data.data(), length, static_cast<off_t>(offset));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0 && errno == EINVAL && to == &direct_fd_) {  // this file system takes no direct writes after all
        direct_.store(false, std::memory_order_relaxed);
        to = &fd_;
        continue;
      }
      if (count <= 0) {
        throw_io(fmt::format("cannot write {} bytes to {} at offset {}", length, name_, offset),
                 count < 0 ? errno : ENOSPC);
      }
      offset += static_cast<std::uint64_t>(count);
      data = data.subspan(static_cast<std::size_t>(count));
    }
  }

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
  // Large pieces go past the page cache: no copy, no dirty pages to throttle on, nobody else's cached files pushed out.
  FileDescriptor direct_fd_;
  std::atomic<bool> direct_;
};

}  // namespace

std::unique_ptr<WriteFile> create_write_file(const std::filesystem::path& path, WriteMode mode) {
  return std::make_unique<PosixWriteFile>(path, mode, open_or_throw(path, O_WRONLY | O_CREAT | O_TRUNC, "create"));
}

std::unique_ptr<WriteFile> open_write_file(const std::filesystem::path& path, WriteMode mode) {
  return std::make_unique<PosixWriteFile>(path, mode, open_or_throw(path, O_WRONLY, "open for writing"));
}

}  // namespace halfquad::posix
