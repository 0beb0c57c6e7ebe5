#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/solver.h"

namespace halfquad::test {

/// A [rows, cols] tensor in memory.
struct SourceTensor {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};

struct SolveOptions {
  DType stored = DType::kF32;
  FixedPointExit exit = FixedPointExit::kOn;
  std::int64_t groups_per_block = 0;  ///< Groups handed to the solver at once; 0: all of them.
};

struct SolvedTensor {
  GroupedShape shape;
  std::vector<std::uint8_t> codes;  ///< The grouped matrix, row-major.
  std::vector<float> scale;
  std::vector<float> zero;
  int steps = 0;  ///< Steps begun.
  bool stopped_early = false;
  std::vector<float> mean_abs_e;  ///< Of the steps begun.
  ErrorSums final_error;
  bool nonfinite = false;
};

/// The whole of a tensor's quantization as a pipeline does it: range or solve over its blocks, the early stop, and a
/// second solve when it fired.
[[nodiscard]] SolvedTensor solve_tensor(Solver& solver, const SourceTensor& tensor, const QuantSpec& spec,
                                        const SolveOptions& options = {});

/// The codes packed as the layout of `spec` wants them, slabs of the grouped matrix over one another.
[[nodiscard]] std::vector<std::byte> pack_tensor(const SolvedTensor& solved, const QuantSpec& spec);

}  // namespace halfquad::test
