#include "launcher/features.h"

#include "io/hdf5_feature.h"

namespace halfquad {

std::vector<Feature> available_features() { return {mpi_feature(), hdf5_feature(), cuda_feature()}; }

}  // namespace halfquad
