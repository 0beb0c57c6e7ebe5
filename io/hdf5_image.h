#pragma once

#include <cstdint>

#include "io/file_image.h"
#include "io/hdf5_tree.h"

namespace halfquad {

/// Datasets of at least this many bytes begin at multiples of kHdf5Alignment, for transfers past the page cache.
inline constexpr std::uint64_t kHdf5AlignedFrom = 262'144;
inline constexpr std::uint64_t kHdf5Alignment = 4096;

/// The HDF5 file that holds `tree`, as the HDF5 library of this build makes it: superblock version 3, every dataset one
/// contiguous piece, no time stamps; the same bytes in every process. `offsets` is by dataset, 0 for one without
/// elements; what has `content` is among the fixed bytes. Touches no disk and needs memory for the fixed bytes only.
/// Throws kBadInput naming the path for what HDF5 cannot hold: bad names, two objects of one path, a dataset with
/// something below it, an element type it does not store, a size beyond 62 bits, NUL or invalid UTF-8 in a text.
[[nodiscard]] FileImage hdf5_image(const Hdf5Tree& tree);

}  // namespace halfquad
