#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "kernels/solver.h"
#include "runtime/dtype.h"

namespace halfquad {

/// Weights in memory, row after row.
struct Matrix {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;  ///< F32, F16, BF16 or F64.
  std::int64_t rows = 0, cols = 0;
};

/// Codes in hqq's layout, scales and zeros of a matrix, of the sizes that its TileGeometry says.
struct MatrixOutput {
  std::byte* codes = nullptr;
  std::byte* scale = nullptr;
  std::byte* zero = nullptr;
};

struct MatrixOptions {
  DType stored = DType::kF16;  ///< Of scale and zero.
  int threads = 1;
  std::function<std::unique_ptr<Solver>()> make_solver;  ///< One call per thread.
};

struct MatrixResult {
  ErrorSums error;
  int steps = 0;  ///< Of hqq, that counted.
};

/// Quantizes a matrix in memory into the bytes that a job writes for such a layer. Throws kBadInput for weights that
/// are not finite, for a group whose range is beyond fp32 and for scales or zeros beyond options.stored.
/// @pre !why_not(spec, matrix.rows, matrix.cols).
MatrixResult quantize_matrix(const Matrix& matrix, const QuantSpec& spec, const MatrixOptions& options,
                             const MatrixOutput& out);

/// What quantize_matrix() wrote.
struct StoredMatrix {
  const std::byte* codes = nullptr;
  const std::byte* scale = nullptr;
  const std::byte* zero = nullptr;
};

/// The weights that such bytes stand for, row after row.
void dequantize_matrix(const StoredMatrix& quantized, std::int64_t rows, std::int64_t cols, const QuantSpec& spec,
                       DType stored, float* weights);

}  // namespace halfquad
