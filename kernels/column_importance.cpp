#include "kernels/column_importance.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <optional>

#include "kernels/decode.h"
#include "kernels/simd/column_sums.h"

namespace halfquad {
namespace {

constexpr float kMost = 0x1p62F;
constexpr std::int64_t kLeastRows = 32;
constexpr std::int64_t kChunk = 1024;  // columns whose sums stay in the first-level cache

// Squares span twice the octaves of a window; 24 of them, 20 bits of a square and 9 of the number of additions make 53.
constexpr int kMostRuns = 1 << 9;
constexpr float kLeastLow = 0x1p-60F;  // squares of what lies below are no multiples of 2^-149
constexpr float kMostLow = 0x1p50F;

/// log2 and 2^x to about 1e-15, of IEEE operations alone: the same bits on every machine, which libm does not promise.
double log2_of(double x) noexcept {
  int exponent = 0;
  double m = std::frexp(x, &exponent);
  if (m < 0.70710678118654752) {
    m *= 2;
    --exponent;
  }
  const double t = (m - 1) / (m + 1);  // |t| < 0.172; ln m = 2 (t + t³/3 + ...)
  const double tt = t * t;
  double sum = 0;
  for (int n = 21; n >= 1; n -= 2) sum = sum * tt + 1.0 / n;
  return exponent + 2 * t * sum / 0.69314718055994531;
}

double exp2_of(double x) noexcept {
  const double whole = std::nearbyint(std::clamp(x, -1000.0, 1000.0));
  const double y = std::clamp(x - whole, -0.5, 0.5) * 0.69314718055994531;
  double sum = 1;
  for (int n = 14; n >= 1; --n) sum = 1 + sum * y / n;
  return std::ldexp(sum, static_cast<int>(whole));
}

/// h of columns with these logarithms.
std::vector<float> scaled(const std::vector<std::optional<double>>& logs, const ImportanceScale& scale) {
  double sum = 0;
  double count = 0;
  for (const auto& log : logs) {
    sum += log.value_or(0);
    count += log ? 1 : 0;
  }
  const double mean = count > 0 ? sum / count : 0;
  std::vector<float> h;
  h.reserve(logs.size());
  for (const auto& log : logs) {
    const auto value = static_cast<float>(exp2_of(scale.power * (log.value_or(mean) - mean)));
    h.push_back(log ? std::clamp(value, scale.least, scale.most) : 1.0F);
  }
  return h;
}

}  // namespace

ColumnMoments::ColumnMoments(std::int64_t cols)
    : columns_(static_cast<std::size_t>(cols)),
      abs_(columns_.size()),
      square_(columns_.size()),
      window_(columns_.size(), simd::kNoWindow),
      outside_(static_cast<std::size_t>(std::min(cols, kChunk))) {}

void ColumnMoments::add(const std::byte* data, DType dtype, std::int64_t first_col, std::int64_t count) {
  const std::int64_t bytes = bytes_of(dtype);
  const std::int64_t before = first_col == 0 ? 0 : std::min(count, cols() - first_col);
  if (before > 0) add_rows(first_col, before, data, dtype, 1);
  data += before * bytes;
  std::int64_t rows = (count - before) / cols();
  const std::int64_t after = count - before - rows * cols();
  for (std::int64_t n = 0; rows > 0; rows -= n, data += n * cols() * bytes) {
    n = std::min<std::int64_t>(rows, kMostRuns - runs_);
    add_rows(0, cols(), data, dtype, n);
  }
  if (after > 0) add_rows(0, after, data, dtype, 1);
}

/// Columns [first, first + count) of some rows, all of them if there are several.
void ColumnMoments::add_rows(std::int64_t first, std::int64_t count, const std::byte* data, DType dtype,
                             std::int64_t rows) {
  std::array<float, kChunk> decoded;
  for (std::int64_t col = first; col < first + count; col += kChunk) {
    const std::int64_t n = std::min(kChunk, first + count - col);
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::byte* const run = data + (row * count + col - first) * bytes_of(dtype);
      if (dtype == DType::kF64) {
        decode_to_f32(run, dtype, n, decoded.data());
        add_run(col, n, reinterpret_cast<const std::byte*>(decoded.data()), DType::kF32);
      } else {
        add_run(col, n, run, dtype);
      }
    }
  }
  runs_ += static_cast<int>(rows);
  if (runs_ >= kMostRuns) flush();
}

void ColumnMoments::add_run(std::int64_t col, std::int64_t count, const std::byte* data, DType dtype) {
  const std::size_t outside = simd::add_columns({.data = data,
                                                 .dtype = dtype,
                                                 .window = window_.data() + col,
                                                 .abs = abs_.data() + col,
                                                 .square = square_.data() + col,
                                                 .count = static_cast<std::size_t>(count)},
                                                outside_.data());
  for (std::size_t i = 0; i < outside; ++i) {
    float w = 0;
    decode_to_f32(data + outside_[i] * bytes_of(dtype), dtype, 1, &w);
    add_outside(static_cast<std::size_t>(col) + outside_[i], simd::column_magnitude(w));
  }
}

void ColumnMoments::add_outside(std::size_t col, float magnitude) {
  if (!std::isfinite(magnitude)) return;
  magnitude = std::min(magnitude, kMost);
  const bool below = window_[col] != simd::kNoWindow && window_[col] > simd::window_from(magnitude);
  if (below || magnitude < kLeastLow) {
    columns_[col].abs.add(magnitude);
    columns_[col].square.add(magnitude * magnitude);
    return;
  }
  // Above the window, or the first: the window moves to where this weight is in its upper part.
  flush_column(col);
  const float low = std::ldexp(1.0F, std::ilogb(magnitude) + 3 - simd::kWindowOctaves);
  window_[col] = simd::window_from(std::clamp(low, kLeastLow, kMostLow));
  abs_[col] += double{magnitude};
  square_[col] += double{magnitude} * double{magnitude};
}

void ColumnMoments::flush_column(std::size_t col) {
  columns_[col].abs.add(abs_[col]);
  columns_[col].square.add(square_[col]);
  abs_[col] = 0;
  square_[col] = 0;
}

void ColumnMoments::flush() {
  for (std::size_t col = 0; col < columns_.size(); ++col) flush_column(col);
  runs_ = 0;
}

void ColumnMoments::add(ColumnMoments& other) {
  flush();
  other.flush();
  for (std::size_t col = 0; col < columns_.size(); ++col) {
    columns_[col].abs.add(other.columns_[col].abs);
    columns_[col].square.add(other.columns_[col].square);
  }
}

std::vector<std::uint64_t> ColumnMoments::digits() {
  flush();
  std::vector<std::uint64_t> out;
  out.reserve(columns_.size() * kDigits);
  for (const Column& column : columns_) {
    for (const ExactSum* sum : {&column.abs, &column.square}) {
      const auto digits = sum->digits();
      out.insert(out.end(), digits.begin(), digits.end());
    }
  }
  return out;
}

void ColumnMoments::assign(std::span<const std::uint64_t> digits) {
  flush();
  for (Column& column : columns_) {
    for (ExactSum* sum : {&column.abs, &column.square}) {
      std::array<std::uint64_t, 9> own{};
      std::copy_n(digits.begin(), own.size(), own.begin());
      *sum = ExactSum::from_digits(own);
      digits = digits.subspan(own.size());
    }
  }
}

double ColumnMoments::abs_sum(std::int64_t col) {
  flush_column(static_cast<std::size_t>(col));
  return columns_[static_cast<std::size_t>(col)].abs.value();
}

double ColumnMoments::square_sum(std::int64_t col) {
  flush_column(static_cast<std::size_t>(col));
  return columns_[static_cast<std::size_t>(col)].square.value();
}

std::vector<float> column_importance(ColumnMoments& moments, std::int64_t rows, const ImportanceScale& scale) {
  std::vector<std::optional<double>> logs(static_cast<std::size_t>(moments.cols()));
  if (rows < kLeastRows) return scaled(logs, scale);
  // The number of rows is a factor common to all columns.
  for (std::size_t col = 0; col < logs.size(); ++col) {
    const double abs = moments.abs_sum(static_cast<std::int64_t>(col));
    const double square = moments.square_sum(static_cast<std::int64_t>(col));
    if (abs > 0 && square > 0) logs[col] = 3 * log2_of(square) - 8 * log2_of(abs);
  }
  return scaled(logs, scale);
}

std::vector<float> importance_of(std::span<const float> measures, const ImportanceScale& scale) {
  std::vector<std::optional<double>> logs;
  logs.reserve(measures.size());
  for (const float measure : measures) {
    const bool counts = measure > 0 && std::isfinite(measure);
    logs.push_back(counts ? std::optional(log2_of(double{measure})) : std::nullopt);
  }
  return scaled(logs, scale);
}

}  // namespace halfquad
