#pragma once

#include "runtime/feature.h"

namespace halfquad {

/// Opens the library, as make_blas_gemm() does.
[[nodiscard]] Feature blas_feature();

}  // namespace halfquad
