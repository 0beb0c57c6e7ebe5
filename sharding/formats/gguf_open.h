#pragma once

#include <filesystem>

#include "io/file_system.h"
#include "sharding/format.h"

namespace halfquad {

/// A GGUF model (open_gguf_files()) as an output of `format`: tensors of ggml's blocks are quantized layers, of rows of
/// bytes. Throws what open_gguf_files() does, and kBadInput naming file and tensor for a type that halfquad does not
/// write.
[[nodiscard]] OpenedModel open_gguf_output(const Format& format, FileSystem& fs, const std::filesystem::path& path);

}  // namespace halfquad
