#pragma once

#include <string>

#include "io/checkpoint.h"

namespace halfquad {

/// Checksum of a checkpoint's file names, lengths and headers, 16 hexadecimal digits. Reads nothing.
[[nodiscard]] std::string source_digest(const Checkpoint& checkpoint);

}  // namespace halfquad
