#include "launcher/library/settings.h"

#include "runtime/check.h"

namespace halfquad {

DType dtype_of(FloatType type) {
  switch (type) {
    case FloatType::kF32:
      return DType::kF32;
    case FloatType::kF16:
      return DType::kF16;
    case FloatType::kBF16:
      return DType::kBF16;
    case FloatType::kF64:
      return DType::kF64;
  }
  throw Error(ErrorCode::kUsage, "a FloatType that there is not: choose kF32, kF16, kBF16 or kF64");
}

CodeWidth width_of(CodeBits bits) {
  switch (bits) {
    case CodeBits::k1:
      return CodeWidth::k1;
    case CodeBits::k1_58:
      return CodeWidth::k1_58;
    case CodeBits::k2:
      return CodeWidth::k2;
    case CodeBits::k3:
      return CodeWidth::k3;
    case CodeBits::k4:
      return CodeWidth::k4;
    case CodeBits::k5:
      return CodeWidth::k5;
    case CodeBits::k6:
      return CodeWidth::k6;
    case CodeBits::k8:
      return CodeWidth::k8;
  }
  throw Error(ErrorCode::kUsage, "CodeBits that there are not: choose one from k1 to k8");
}

std::optional<SolverKind> solver_of(SolveMethod method) {
  switch (method) {
    case SolveMethod::kAutomatic:
      return std::nullopt;
    case SolveMethod::kRoundToNearest:
      return SolverKind::kRtn;
    case SolveMethod::kHalfQuadratic:
      return SolverKind::kHqq;
    case SolveMethod::kLeastSquares:
      return SolverKind::kAls;
  }
  throw Error(ErrorCode::kUsage,
              "a SolveMethod that there is not: choose kAutomatic, kRoundToNearest, kHalfQuadratic or "
              "kLeastSquares");
}

}  // namespace halfquad
