#include "io/hdf5_feature.h"

namespace halfquad {

Feature hdf5_feature() { return {.name = "HDF5", .available = false, .detail = "not in this build"}; }

}  // namespace halfquad
