#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "runtime/dtype.h"
#include "sharding/rules.h"

namespace halfquad {

/// Opens a GGUF model (open_gguf_files()) as what it stands for: tensors of F32, F16, BF16, F64 and whole numbers as
/// they lie there, those of Q8_0 decoded to F32 when they are read, all with their shape outermost first. Experts,
/// which lie in one tensor "blk.3.ffn_up_exps.weight", are matrices "blk.3.ffn_up_exps.<expert>.weight". Throws what
/// open_gguf_files() does, and kBadInput naming file and tensor for one of any other type: it is quantized already.
[[nodiscard]] Checkpoint open_gguf_source(FileSystem& fs, const std::filesystem::path& path);

/// The dtype of a ggml type whose elements lie one by one; nothing for blocks.
[[nodiscard]] std::optional<DType> gguf_plain_dtype(std::uint32_t type);

/// Default treatment of a tensor of a GGUF model by its name, shape and dtype, for whichever architecture: kNone for a
/// linear layer, which is a 2-D ".weight" of a block that is nothing else by its name, at least 32 in both dimensions.
[[nodiscard]] KeepReason gguf_keep_reason(const SourceTensor& tensor);

}  // namespace halfquad
