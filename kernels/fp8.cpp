#include "kernels/fp8.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/decode.h"
#include "runtime/check.h"
#include "runtime/checked.h"

namespace halfquad {
namespace {

using Table = std::array<float, 256>;

struct Layout {
  unsigned fraction_bits;
  int bias;
  bool has_infinity;  ///< The highest exponent is that of infinity and NaN, not only the all-ones code that of NaN.
};

constexpr float power_of_two(int exponent) {
  if (exponent < -126) return std::bit_cast<float>(std::uint32_t{1} << static_cast<unsigned>(exponent + 149));
  return std::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23U);
}

constexpr float meaning(std::uint32_t code, Layout layout) {
  const std::uint32_t magnitude = code & 0x7FU;
  const std::uint32_t fraction = magnitude & ((1U << layout.fraction_bits) - 1);
  const auto exponent = static_cast<int>(magnitude >> layout.fraction_bits);
  const bool is_top = exponent == 0x7F >> layout.fraction_bits;
  float value = 0;
  if (layout.has_infinity && is_top) {
    value = fraction == 0 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
  } else if (magnitude == 0x7F) {
    value = std::numeric_limits<float>::quiet_NaN();
  } else {
    const std::uint32_t whole = exponent == 0 ? fraction : fraction + (1U << layout.fraction_bits);
    const int scale = std::max(exponent, 1) - layout.bias - static_cast<int>(layout.fraction_bits);
    value = static_cast<float>(whole) * power_of_two(scale);
  }
  return (code & 0x80U) != 0 ? -value : value;
}

constexpr Table table_of(Layout layout) {
  Table table{};
  for (std::uint32_t code = 0; code < table.size(); ++code) table[code] = meaning(code, layout);
  return table;
}

constexpr Table e8m0_table() {
  Table table{};
  for (int code = 0; code < 255; ++code) table[static_cast<std::size_t>(code)] = power_of_two(code - 127);
  table[255] = std::numeric_limits<float>::quiet_NaN();
  return table;
}

constexpr Table i8_table() {
  Table table{};
  for (int code = 0; code < 256; ++code)
    table[static_cast<std::size_t>(code)] = static_cast<float>(code < 128 ? code : code - 256);
  return table;
}

constexpr Table kI8 = i8_table();
constexpr Table kE4M3 = table_of({.fraction_bits = 3, .bias = 7, .has_infinity = false});
constexpr Table kE5M2 = table_of({.fraction_bits = 2, .bias = 15, .has_infinity = true});
constexpr Table kE8M0 = e8m0_table();

/// Nothing for a dtype that has no table.
const Table* table_for(DType dtype) noexcept {
  if (dtype == DType::kF8E4M3) return &kE4M3;
  if (dtype == DType::kF8E5M2) return &kE5M2;
  if (dtype == DType::kF8E8M0) return &kE8M0;
  return nullptr;
}

}  // namespace

float e4m3_to_f32(std::uint8_t code) noexcept { return kE4M3[code]; }
float e5m2_to_f32(std::uint8_t code) noexcept { return kE5M2[code]; }
float e8m0_to_f32(std::uint8_t code) noexcept { return kE8M0[code]; }

std::uint8_t f32_to_e4m3(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 24U & 0x80U;
  const float magnitude = std::fabs(value);
  std::uint32_t code = 0x7F;
  if (magnitude < 0x1p-6F) {
    // Subnormal: beside 2^14 a float is a multiple of 2^-9, so the addition rounds to one.
    code = std::bit_cast<std::uint32_t>(magnitude + 0x1p14F) - std::bit_cast<std::uint32_t>(0x1p14F);
  } else if (!std::isnan(magnitude)) {
    // Rebias, round at bit 20.
    const std::uint32_t normal = (bits & 0x7FFF'FFFFU) - (120U << 23U);
    code = std::min<std::uint32_t>(0x7E, (normal + 0x7'FFFFU + (normal >> 20U & 1U)) >> 20U);
  }
  return static_cast<std::uint8_t>(sign | code);
}

bool is_narrow_source(DType dtype) noexcept { return table_for(dtype) != nullptr || is_float_source(dtype); }

void decode_narrow_to_f32(const std::byte* in, DType dtype, std::int64_t count, float* out) noexcept {
  const Table* table = table_for(dtype);
  if (table == nullptr) {
    decode_to_f32(in, dtype, count, out);
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) out[i] = (*table)[std::to_integer<std::size_t>(in[i])];
}

void decode_fp8_run(const std::byte* in, DType dtype, const MatrixRun& run, const ScaleGrid& grid,
                    float* out) noexcept {
  const Table* table = dtype == DType::kI8 ? &kI8 : table_for(dtype);
  HALFQUAD_DCHECK(table != nullptr);
  const std::int64_t bytes = bytes_of(grid.dtype);
  const std::int64_t line_bytes = grid.lines != 0 ? bytes : ceil_div(run.cols, grid.block_cols) * bytes;
  const std::int64_t step_bytes = grid.lines != 0 ? grid.lines * bytes : bytes;
  std::int64_t row = run.first_row, col = run.first_col;
  for (std::int64_t left = run.count; left > 0; ++row, col = 0) {
    const std::int64_t line = row / grid.block_rows - run.first_row / grid.block_rows;
    const std::byte* scales = grid.data + line * line_bytes + col / grid.block_cols * step_bytes;
    const std::int64_t row_end = std::min(run.cols, col + left);
    left -= row_end - col;
    while (col < row_end) {
      const std::int64_t end = std::min(row_end, (col / grid.block_cols + 1) * grid.block_cols);
      float scale = 0;
      decode_narrow_to_f32(scales, grid.dtype, 1, &scale);
      scales += step_bytes;
      const std::int64_t count = end - col;
      for (std::int64_t i = 0; i < count; ++i) out[i] = (*table)[std::to_integer<std::size_t>(in[i])] * scale;
      in += count;
      out += count;
      col = end;
    }
  }
}

void decode_fp8_rows(const std::byte* in, DType dtype, const MatrixRows& rows, const ScaleGrid& grid,
                     float* out) noexcept {
  decode_fp8_run(in, dtype, {rows.first, 0, rows.count * rows.cols, rows.cols}, grid, out);
}

}  // namespace halfquad
