#include "runtime/feature.h"

namespace halfquad {

Feature cuda_feature() { return {.name = "CUDA", .available = false, .detail = "not in this build"}; }

}  // namespace halfquad
