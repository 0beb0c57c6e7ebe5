#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <utility>

#include <fmt/format.h>

#include "io/posix_file.h"
#include "runtime/check.h"
#include "runtime/checked.h"
#include "runtime/text.h"

namespace halfquad::posix {
namespace {

constexpr std::size_t kAlignment = 4096;
constexpr std::uint64_t kDirectFromBytes = std::uint64_t{64} << 20;  // below it a direct read gains nothing

/// Whether at least half of some pages spread over the file are in the page cache.
bool mostly_cached(int fd, std::uint64_t size) {
  constexpr std::uint64_t kSamples = 16;
  // The probe makes the kernel fetch what it finds missing. RANDOM keeps that to one page, and the clock picks other
  // pages each time, so that one probe does not make the next one believe the file is cached.
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  const std::uint64_t segment_pages = size / kAlignment / kSamples;
  const auto ticks = static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
  const std::uint64_t phase = (ticks * 0x9E3779B97F4A7C15U >> 20U) % segment_pages;
  std::uint64_t cached = 0;
  for (std::uint64_t i = 0; i < kSamples; ++i) {
    std::byte probe{};
    const iovec into{&probe, 1};
    const std::uint64_t at = (i * segment_pages + phase) * kAlignment;
    if (::preadv2(fd, &into, 1, static_cast<off_t>(at), RWF_NOWAIT) == 1) ++cached;
  }
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_NORMAL);
  return cached * 2 >= kSamples;
}

bool set_direct(int fd, bool on) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0) return false;
  return ::fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

class PosixReadFile final : public ReadFile {
 public:
  PosixReadFile(const std::filesystem::path& path, ReadMode mode)
      : name_(quoted(path.string())), fd_(open_or_throw(path, O_RDONLY, "open")) {
    struct stat status {};
    if (::fstat(fd_.get(), &status) != 0) throw_io("cannot look at " + name_, errno);
    HALFQUAD_REQUIRE(S_ISREG(status.st_mode), kIo, name_ + " is not a regular file");
    size_ = static_cast<std::uint64_t>(status.st_size);
    const bool wants_direct = mode == ReadMode::kDirect || (mode == ReadMode::kAuto && size_ >= kDirectFromBytes &&
                                                            !mostly_cached(fd_.get(), size_));
    direct_ = wants_direct && set_direct(fd_.get(), true);
  }

  [[nodiscard]] std::uint64_t size() const override { return size_; }

  [[nodiscard]] std::span<std::byte> read(std::uint64_t offset, std::size_t bytes,
                                          std::span<std::byte> scratch) override {
    HALFQUAD_REQUIRE(scratch.size() >= bytes + kSlack, kInternal, "the scratch for a read is too small");
    HALFQUAD_REQUIRE(reinterpret_cast<std::uintptr_t>(scratch.data()) % kAlignment == 0, kInternal,
                     "the scratch for a read is not aligned");
    if (bytes == 0) return scratch.first(0);
    if (offset > size_ || bytes > size_ - offset) throw_short(offset, offset + bytes - std::max(size_, offset));
    if (direct_.load(std::memory_order_relaxed)) {
      const std::size_t lead = offset % kAlignment;
      const std::size_t whole = round_up(lead + bytes, kAlignment);
      if (fill(offset - lead, lead + bytes, scratch.first(whole), kAlignment)) return scratch.subspan(lead, bytes);
      // Some file systems take the flag and then refuse the transfer.
      set_direct(fd_.get(), false);
      direct_.store(false, std::memory_order_relaxed);
    }
    HALFQUAD_REQUIRE(
        fill(offset, bytes, scratch.first(bytes), 1), kIo,
        fmt::format("cannot read {} bytes of {} at offset {}: the system refuses the request", bytes, name_, offset));
    return scratch.first(bytes);
  }

 private:
  /// Reads from `start` into `into` until `needed` bytes have arrived, each transfer beginning at a multiple of
  /// `alignment`; bytes beyond `needed` are room for whole blocks. False when the system calls the request invalid.
  [[nodiscard]] bool fill(std::uint64_t start, std::size_t needed, std::span<std::byte> into, std::size_t alignment) {
    std::size_t got = 0;
    while (got < needed) {
      // A transfer that stopped inside a block is done again from the block's start.
      const std::size_t at = got / alignment * alignment;
      const std::size_t length = std::min(into.size() - at, kMaxTransferBytes);
      const ssize_t count = ::pread(fd_.get(), into.data() + at, length, static_cast<off_t>(start + at));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0 && errno == EINVAL) return false;
      if (count < 0) throw_io(fmt::format("cannot read {} bytes of {} at offset {}", length, name_, start + at), errno);
      const std::size_t arrived = at + static_cast<std::size_t>(count);
      if (arrived <= got) throw_short(start + got, needed - got);
      got = arrived;
    }
    return true;
  }

  [[noreturn]] void throw_short(std::uint64_t offset, std::uint64_t missing) const {
    throw Error(ErrorCode::kIo, fmt::format("{} is {} bytes short at offset {}, it changed or was cut while being read",
                                            name_, missing, offset));
  }

  std::string name_;
  FileDescriptor fd_;
  std::uint64_t size_ = 0;
  std::atomic<bool> direct_{false};
};

}  // namespace

std::unique_ptr<ReadFile> open_read_file(const std::filesystem::path& path, ReadMode mode) {
  return std::make_unique<PosixReadFile>(path, mode);
}

}  // namespace halfquad::posix
