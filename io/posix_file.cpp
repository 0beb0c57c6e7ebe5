#include "io/posix_file.h"

#include <cerrno>
#include <fcntl.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include <fmt/format.h>

#include "runtime/error.h"
#include "runtime/text.h"

namespace halfquad::posix {

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = other.release();
  }
  return *this;
}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

int FileDescriptor::release() noexcept { return std::exchange(fd_, -1); }

FileDescriptor open_or_throw(const std::filesystem::path& path, int flags, std::string_view action) {
  constexpr mode_t kMode = 0666;  // the umask takes from it
  int fd = -1;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, kMode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) throw_io(fmt::format("cannot {} {}", action, quoted(path.string())), errno);
  return FileDescriptor(fd);
}

void throw_io(const std::string& what, int error) {
  std::string message = fmt::format("{}: {}", what, std::generic_category().message(error));
  if (error == ENOSPC || error == EDQUOT) {
    message += "; free space there, or raise the quota, and run the same command again";
  } else if (error == EMFILE || error == ENFILE) {
    message += "; raise the limit (ulimit -n) and run the same command again";
  }
  throw Error(ErrorCode::kIo, message);
}

}  // namespace halfquad::posix
