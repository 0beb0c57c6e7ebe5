#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/exact_sum.h"
#include "runtime/dtype.h"

namespace halfquad {

/// Sums of |w| and of w² over each column of a matrix, w being cut to its first 10 significant bits, towards 0. They
/// are exact, so neither tiles, their order, threads nor ranks change them. Weights beyond 2^62 count as 2^62; those
/// that are not finite do not count: the solver finds them.
class ColumnMoments {
 public:
  /// Numbers of digits() for each column.
  static constexpr std::int64_t kDigits = 18;

  explicit ColumnMoments(std::int64_t cols);
  [[nodiscard]] std::int64_t cols() const noexcept { return static_cast<std::int64_t>(columns_.size()); }

  /// Adds `count` weights of `dtype` that follow each other in the rows of the matrix, the first of them in column
  /// `first_col`, the one after a row's last in column 0. Runs of many rows are fastest. @pre first_col < cols().
  void add(const std::byte* data, DType dtype, std::int64_t first_col, std::int64_t count);
  /// @pre The same number of columns.
  void add(ColumnMoments& other);

  /// What another rank can add: kDigits numbers a column, which ranks may sum up one by one (as up to 2^31 ranks).
  [[nodiscard]] std::vector<std::uint64_t> digits();
  /// Takes the place of all that was added. @pre digits() of as many columns, or sums of such.
  void assign(std::span<const std::uint64_t> digits);

  [[nodiscard]] double abs_sum(std::int64_t col);     ///< Rounded once.
  [[nodiscard]] double square_sum(std::int64_t col);  ///< Rounded once.

 private:
  struct Column {
    ExactSum abs, square;
  };
  void add_rows(std::int64_t first, std::int64_t count, const std::byte* data, DType dtype, std::int64_t rows);
  void add_run(std::int64_t col, std::int64_t count, const std::byte* data, DType dtype);
  void add_outside(std::size_t col, float magnitude);
  void flush_column(std::size_t col);
  void flush();

  std::vector<Column> columns_;
  std::vector<double> abs_, square_;  // beside columns_: exact as long as all weights lie in the column's window
  std::vector<std::int32_t> window_;  // of each column (simd/column_sums.h)
  std::vector<std::uint32_t> outside_;
  int runs_ = 0;  // that may have added to a column since the last flush
};

/// How column weights are made of a measure of each column.
struct ImportanceScale {
  double power = 1;  ///< Taken of the measure.
  float least = 1e-2F;
  float most = 1e2F;
};

/// For measures that a file gives, such as E[x²].
inline constexpr ImportanceScale kGivenImportance{.power = 1, .least = 1e-3F, .most = 1e4F};

/// h of each column of a matrix of `rows` rows: r = m2³ / m1⁸, m1 and m2 being the means of |w| and of w², divided by
/// the geometric mean of all r > 0, to the power, clamped. A stand-in for E[x²] of the column's input: large inputs
/// have small, heavy-tailed weights, and a factor moved from an input to its weights changes r as it must. 1 for
/// columns that are all zero, and for all columns of a matrix of fewer than 32 rows. The same bits on every machine.
[[nodiscard]] std::vector<float> column_importance(ColumnMoments& moments, std::int64_t rows,
                                                   const ImportanceScale& scale = {});

/// The same for measures that are given, such as E[x²] of each column. Those that are not finite and > 0 become 1.
[[nodiscard]] std::vector<float> importance_of(std::span<const float> measures,
                                               const ImportanceScale& scale = kGivenImportance);

}  // namespace halfquad
