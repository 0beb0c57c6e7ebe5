#include "runtime/feature.h"

namespace halfquad {

Feature mpi_feature() { return {.name = "MPI", .available = false, .detail = "not in this build"}; }

}  // namespace halfquad
