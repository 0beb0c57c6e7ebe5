#pragma once

#include <string>

#include "io/checkpoint.h"
#include "io/file_system.h"

namespace halfquad {

enum class SourceKind { kCheckpoint, kOutput };

/// The model that an output was made from, as --source names it: a checkpoint, or the output that was converted into
/// it (`kind`), dequantized. Throws kUsage for one whose names are not its own (GGUF), and what open_source() does.
[[nodiscard]] Checkpoint open_original(FileSystem& fs, const std::string& path, SourceKind kind);

}  // namespace halfquad
