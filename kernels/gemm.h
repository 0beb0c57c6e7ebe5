#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "runtime/error.h"

namespace halfquad {

enum class GemmSum : std::uint8_t {
  kReplace,  ///< C = A·Bᵀ; what C held is not read.
  kAdd,      ///< C = C + A·Bᵀ
};

/// One product of fp32 matrices in host memory. Rows lie `*_stride` elements apart, elements of a row back to back.
struct GemmProblem {
  std::int64_t m = 0, n = 0, k = 0;
  const float* a = nullptr;  ///< [m, k]
  std::int64_t a_stride = 0;
  const float* b = nullptr;  ///< [n, k]
  std::int64_t b_stride = 0;
  float* c = nullptr;  ///< [m, n]
  std::int64_t c_stride = 0;
  GemmSum sum = GemmSum::kReplace;
};

/// Matrix products in fp32, sums in any order: backends agree to a few units of the last place of sum |a|·|b|, not bit
/// for bit. One object per worker, not thread-safe.
class Gemm {
 public:
  virtual ~Gemm() = default;
  [[nodiscard]] virtual std::string name() const = 0;  ///< "OpenBLAS 0.3.21, SkylakeX", "plain loops", ...

  /// Returns when C is ready, and runs in the calling thread alone. m, n or k may be 0.
  /// Throws kInternal for strides shorter than a row.
  virtual void multiply(const GemmProblem& problem) = 0;
};

/// Throws kInternal unless sizes and strides belong together: for backends.
void check_gemm_problem(const GemmProblem& problem);

/// Portable loops: always there, several times slower than a BLAS.
[[nodiscard]] std::unique_ptr<Gemm> make_plain_gemm();

/// `first` until it fails with kDevice or kOutOfMemory, then `second`, for that product too. `failed` is told why, in
/// the thread that multiplies.
[[nodiscard]] std::unique_ptr<Gemm> make_fallback_gemm(std::unique_ptr<Gemm> first, std::unique_ptr<Gemm> second,
                                                       std::function<void(const Error&)> failed);

/// The BLAS this program was built for. It is opened by the first call in the process, which must not run beside
/// threads that read or change the environment. Throws kUsage when this build has none or it cannot be opened
/// (blas_feature() tells).
[[nodiscard]] std::unique_ptr<Gemm> make_blas_gemm();

}  // namespace halfquad
