#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "io/checkpoint.h"
#include "io/file_system.h"
#include "io/gguf.h"

namespace halfquad {

/// The files of a GGUF model, one or the parts it is split into, in their order, and the header of each.
struct GgufFiles {
  std::vector<SourceFile> files;
  std::vector<GgufHeader> headers;

  /// The model as if it were in one file: the first one's keys without those of splitting, and the tensors of all,
  /// whose offsets are those in their files.
  [[nodiscard]] GgufHeader model() const;
  /// Where the tensors lie: for each of model().tensors its file and the offset from the start of that.
  struct Place {
    int file = 0;
    std::uint64_t offset = 0;
  };
  [[nodiscard]] std::vector<Place> places() const;
};

/// The GGUF file to open for `path`: itself when its name ends in ".gguf" or it begins as such files do; of a directory
/// without safetensors or PyTorch weights, the only model in it, of which a split one's first part. Nothing when there
/// is none. Throws kBadInput naming two of several.
[[nodiscard]] std::optional<std::filesystem::path> find_gguf_model(FileSystem& fs, const std::filesystem::path& path);

/// `path`: a GGUF file, or any part "<name>-00001-of-00003.gguf" of one that is split, the others beside it. Throws
/// what read_gguf_header() does, and kBadInput naming the file: a part that is missing, has another place than its name
/// says, is of another model, or has another number of parts or tensors.
[[nodiscard]] GgufFiles open_gguf_files(FileSystem& fs, const std::filesystem::path& path);

}  // namespace halfquad
