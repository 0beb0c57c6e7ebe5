#pragma once

#include <vector>

#include "runtime/feature.h"

namespace halfquad {

/// The optional parts of this build, in a fixed order: MPI, HDF5, CUDA.
[[nodiscard]] std::vector<Feature> available_features();

/// Opens the module of the devices, if a driver is there; a machine without is a normal answer, not an error.
[[nodiscard]] Feature cuda_feature();

}  // namespace halfquad
