#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/dtype.h"

namespace halfquad {

/// What one code of a narrow float format means; exact.
[[nodiscard]] float e4m3_to_f32(std::uint8_t code) noexcept;  ///< F8_E4M3 ("FN"): +-448 at most, 0x7F and 0xFF are NaN.
[[nodiscard]] float e5m2_to_f32(std::uint8_t code) noexcept;  ///< F8_E5M2, with infinities and NaN.
[[nodiscard]] float e8m0_to_f32(std::uint8_t code) noexcept;  ///< F8_E8M0: 2^(code - 127), no sign; 0xFF is NaN.

/// The nearest E4M3 code, ties to even; what is beyond 448, infinity too, becomes +-448, and NaN stays NaN.
[[nodiscard]] std::uint8_t f32_to_e4m3(float value) noexcept;

/// `count` values of `dtype` (F8_E4M3, F8_E5M2, F8_E8M0, or what decode_to_f32() takes) as fp32.
void decode_narrow_to_f32(const std::byte* in, DType dtype, std::int64_t count, float* out) noexcept;

/// Whether decode_narrow_to_f32() knows the dtype.
[[nodiscard]] bool is_narrow_source(DType dtype) noexcept;

/// Scales of a matrix in a row-major grid, each for a block of block_rows x block_cols elements; the blocks at the far
/// edges may be cut off. One scale for a whole row is a block of 1 x cols, for a whole matrix one of rows x cols.
struct ScaleGrid {
  const std::byte* data = nullptr;  ///< From the grid row that the first decoded row belongs to.
  DType dtype = DType::kF32;        ///< What is_narrow_source() says yes to.
  std::int64_t block_rows = 1;
  std::int64_t block_cols = 1;
  std::int64_t lines = 0;  ///< Not 0: `data` is this many grid rows, column after column.
};

/// Some whole rows of a matrix.
struct MatrixRows {
  std::int64_t first = 0;  ///< Its number in the matrix.
  std::int64_t count = 0;
  std::int64_t cols = 0;
};

/// Consecutive elements of a matrix, row after row; neither the first nor the last row needs to be whole.
struct MatrixRun {
  std::int64_t first_row = 0, first_col = 0;  ///< Where it begins.
  std::int64_t count = 0;
  std::int64_t cols = 0;  ///< Of the matrix.
};

/// As decode_fp8_rows(), for such a run.
void decode_fp8_run(const std::byte* in, DType dtype, const MatrixRun& run, const ScaleGrid& grid, float* out) noexcept;

/// out = fp32(code) * fp32(scale), rounded once. `in`: the rows' codes, F8_E4M3, F8_E5M2 or I8; they may be the last
/// bytes of `out`, where every code is read before its place is written.
void decode_fp8_rows(const std::byte* in, DType dtype, const MatrixRows& rows, const ScaleGrid& grid,
                     float* out) noexcept;

}  // namespace halfquad
