#pragma once

#include <memory>

#include "io/file_system.h"

namespace halfquad {

/// The machine's own files (POSIX; O_DIRECT, fallocate, sync_file_range and renameat2 where the kernel has them).
[[nodiscard]] std::unique_ptr<FileSystem> make_posix_file_system();

}  // namespace halfquad
