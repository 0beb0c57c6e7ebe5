#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/file_system.h"

namespace halfquad {

/// One file of a zip archive.
struct ZipEntry {
  std::string name;
  std::uint64_t header = 0;  ///< Offset of its own header, which the data follow.
  std::uint64_t bytes = 0;
};

/// A zip archive's directory, with or without zip64. Only what torch.save() writes is taken: one volume, entries stored
/// as they are. Throws kBadInput naming `file` and the entry for anything else, and for a directory that is cut short,
/// claims more than the file holds or names an entry twice.
[[nodiscard]] std::vector<ZipEntry> read_zip_directory(ReadFile& archive, std::string_view file);

/// Where an entry's data begin. Throws kBadInput when its own header is missing or its data leave the file.
[[nodiscard]] std::uint64_t zip_data_offset(ReadFile& archive, const ZipEntry& entry, std::string_view file);

}  // namespace halfquad
