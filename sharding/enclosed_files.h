#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "io/file_system.h"

namespace halfquad {

/// A small file of the model (tokenizer, licence, ...) that lies inside an output.
struct EnclosedFile {
  std::string name;  ///< Relative to the model's folder; no part of it is "..".
  std::filesystem::path inside;
  std::uint64_t offset = 0;  ///< From the start of `inside`.
  std::uint64_t bytes = 0;
};

/// What an output that is one HDF5 file keeps of the files beside the model. Empty for any other output: a directory
/// has them as files. Throws as opening the output does.
[[nodiscard]] std::vector<EnclosedFile> enclosed_files(FileSystem& fs, const std::filesystem::path& output);

/// Its contents, all at once.
[[nodiscard]] std::string read_enclosed(FileSystem& fs, const EnclosedFile& file);

}  // namespace halfquad
