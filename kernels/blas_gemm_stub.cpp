#include "kernels/blas_feature.h"
#include "kernels/gemm.h"
#include "runtime/error.h"

namespace halfquad {

Feature blas_feature() { return {.name = "BLAS", .available = false, .detail = "not in this build"}; }

std::unique_ptr<Gemm> make_blas_gemm() {
  throw Error(ErrorCode::kUsage,
              "this halfquad was built without a BLAS; install one (cluster/install-deps --with blas) and build with "
              "-DHALFQUAD_WITH_BLAS=ON");
}

}  // namespace halfquad
