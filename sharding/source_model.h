#pragma once

#include <filesystem>

#include "io/checkpoint.h"
#include "io/file_system.h"

namespace halfquad {

/// Opens a checkpoint as the model it stands for: its tensors() are those of a plain checkpoint (logical_tensors() says
/// which), and what is stored otherwise, fp8, MXFP4 or packed codes with their scales, experts of a fused tensor, is
/// decoded when it is read. A GGUF model (find_gguf_model()) is what open_gguf_source() makes of it. Throws what these
/// do.
[[nodiscard]] Checkpoint open_source(FileSystem& fs, const std::filesystem::path& path);

}  // namespace halfquad
