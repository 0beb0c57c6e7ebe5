#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "io/file_system.h"
#include "io/hdf5_tree.h"

namespace halfquad {

/// What an HDF5 file holds and where: hdf5_image() backwards.
struct Hdf5File {
  Hdf5Tree
      tree;  ///< Groups and datasets by path; groups without attributes only where nothing lies below; no contents.
  std::vector<std::uint64_t> offsets;  ///< By dataset: where its data begin; 0 without elements.
  std::uint64_t bytes = 0;
};

/// Reads everything but the data. Takes only what can be read by plain reads at known places: a finished file of
/// superblock version 2 or 3 from byte 0 on that is exactly as long as it says, every object with one name, every
/// dataset one contiguous piece of an hdf5_stores() type inside the file that overlaps no other, no links of other
/// kinds. Throws kBadInput naming `name` (the file), the path in it and the defect, and kIo when the file cannot be
/// read. HDF5 checks the checksums of most of what it reads; a file forged with right checksums is not a threat it
/// stands up to.
[[nodiscard]] Hdf5File read_hdf5(ReadFile& file, std::string_view name);

}  // namespace halfquad
