#pragma once

#include <vector>

#include "runtime/feature.h"

namespace halfquad {

/// The optional parts of this build, in a fixed order: MPI, HDF5, CUDA.
[[nodiscard]] std::vector<Feature> available_features();

}  // namespace halfquad
