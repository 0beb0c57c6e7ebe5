#include "io/posix_file_system.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include <fmt/format.h>

#include "io/posix_file.h"
#include "runtime/error.h"
#include "runtime/text.h"

namespace halfquad {
namespace {

using posix::FileDescriptor;
using posix::throw_io;

std::string named(const FileSystem::Path& path) { return quoted(path.string()); }

class PosixFileLock final : public FileLock {
 public:
  explicit PosixFileLock(FileDescriptor fd) : fd_(std::move(fd)) {}

 private:
  FileDescriptor fd_;  // closing it drops the lock
};

/// Whether `path` still names the file that `fd` has open.
bool names_open_file(const FileSystem::Path& path, int fd) {
  struct stat by_path {};
  struct stat by_fd {};
  return ::stat(path.c_str(), &by_path) == 0 && ::fstat(fd, &by_fd) == 0 && by_path.st_ino == by_fd.st_ino &&
         by_path.st_dev == by_fd.st_dev;
}

class PosixFileSystem final : public FileSystem {
 public:
  [[nodiscard]] std::unique_ptr<ReadFile> open_read(const Path& path, ReadMode mode) override {
    return posix::open_read_file(path, mode);
  }

  [[nodiscard]] std::unique_ptr<WriteFile> create(const Path& path, WriteMode mode) override {
    return posix::create_write_file(path, mode);
  }

  [[nodiscard]] std::unique_ptr<WriteFile> open_write(const Path& path, WriteMode mode) override {
    return posix::open_write_file(path, mode);
  }

  [[nodiscard]] FileKind kind(const Path& path) override {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) {
      if (errno == ENOENT || errno == ENOTDIR) return FileKind::kMissing;
      throw_path("look at", path, errno);
    }
    if (S_ISREG(status.st_mode)) return FileKind::kFile;
    return S_ISDIR(status.st_mode) ? FileKind::kDirectory : FileKind::kOther;
  }

  [[nodiscard]] Path canonical(const Path& path) override {
    const std::unique_ptr<char, decltype(&std::free)> resolved(::realpath(path.c_str(), nullptr), &std::free);
    if (!resolved) throw_path("resolve", path, errno);
    return Path(resolved.get());
  }

  [[nodiscard]] std::vector<std::string> list(const Path& directory) override {
    std::vector<std::string> names;
    std::error_code error;
    auto it = std::filesystem::directory_iterator(directory, error);
    for (; !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
      names.push_back(it->path().filename().string());
    }
    if (error) throw_path("list the directory", directory, error.value());
    std::sort(names.begin(), names.end());
    return names;
  }

  void create_directory(const Path& path) override {
    constexpr mode_t kMode = 0777;  // the umask takes from it
    if (::mkdir(path.c_str(), kMode) == 0) return;
    const int error = errno;
    if (error == EEXIST && kind(path) == FileKind::kDirectory) return;
    throw_path("create the directory", path, error);
  }

  void rename(const Path& from, const Path& to) override {
    if (::rename(from.c_str(), to.c_str()) == 0) return;
    throw_io(fmt::format("cannot rename {} to {}", named(from), named(to)), errno);
  }

  [[nodiscard]] bool exchange(const Path& a, const Path& b) override {
    // By number: glibc has the wrapper only since 2.28, musl not at all.
    if (::syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0) return true;
    if (errno == ENOSYS || errno == EINVAL || errno == EOPNOTSUPP) return false;
    throw_io(fmt::format("cannot exchange {} and {}", named(a), named(b)), errno);
  }

  void remove_all(const Path& path) override {
    std::error_code error;
    std::filesystem::remove_all(path, error);  // removes links, never what they point to
    if (error) throw_path("remove", path, error.value());
  }

  void sync_directory(const Path& path) override {
    const FileDescriptor fd = posix::open_or_throw(path, O_RDONLY | O_DIRECTORY, "open the directory");
    if (::fsync(fd.get()) == 0) return;
    // Some network file systems know no fsync of a directory; their renames are durable by themselves.
    if (errno != EINVAL && errno != EBADF && errno != ENOTSUP) throw_path("sync the directory", path, errno);
  }

  [[nodiscard]] std::unique_ptr<FileLock> try_lock(const Path& path) override {
    while (true) {
      FileDescriptor fd = posix::open_or_throw(path, O_RDWR | O_CREAT, "open the lock file");
      // flock and not fcntl: it belongs to this open file, so closing another descriptor of the same file elsewhere in
      // the process does not drop it. Linux carries it over NFS as a byte-range lock.
      if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) return nullptr;
        if (errno == EINTR) continue;
        // A file system mounted without locks (Lustre's default once was) must not keep anybody from working.
        if (errno != ENOSYS && errno != EOPNOTSUPP && errno != ENOLCK) throw_path("lock", path, errno);
      }
      // The holder before may have removed the file between our open and our lock; then we hold a nameless file.
      if (names_open_file(path, fd.get())) return std::make_unique<PosixFileLock>(std::move(fd));
    }
  }

  [[nodiscard]] std::uint64_t free_bytes(const Path& path) override {
    struct statvfs status {};
    if (::statvfs(path.c_str(), &status) != 0) throw_path("ask for the free space at", path, errno);
    return static_cast<std::uint64_t>(status.f_bavail) * status.f_frsize;
  }

 private:
  [[noreturn]] static void throw_path(std::string_view action, const Path& path, int error) {
    if (error == ELOOP) {
      throw Error(ErrorCode::kIo,
                  fmt::format("cannot {} {}: its symbolic links form a loop or too long a chain", action, named(path)));
    }
    throw_io(fmt::format("cannot {} {}", action, named(path)), error);
  }
};

}  // namespace

std::unique_ptr<FileSystem> make_posix_file_system() { return std::make_unique<PosixFileSystem>(); }

}  // namespace halfquad
