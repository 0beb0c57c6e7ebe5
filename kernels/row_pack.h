#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/dtype.h"

namespace halfquad {

/// Dense streams of codes of 1 to 8 bits: code i takes bits [i * bits, i * bits + bits), the lowest bit of byte 0
/// first. Streams of whole 32-bit words are the same bytes in little-endian words.

/// Bytes of `count` codes, the last one filled up with zero bits.
[[nodiscard]] std::int64_t bit_stream_bytes(std::int64_t count, int bits) noexcept;
/// 32-bit words of `count` codes.
[[nodiscard]] std::int64_t bit_stream_words(std::int64_t count, int bits) noexcept;

/// @pre codes < 2^bits; out holds at least bit_stream_bytes(count, bits), what is beyond them is set to zero.
void pack_bits(const std::uint8_t* codes, std::int64_t count, int bits, std::span<std::byte> out) noexcept;
/// The inverse; reads bit_stream_bytes(count, bits).
void unpack_bits(const std::byte* stream, std::int64_t count, int bits, std::uint8_t* codes) noexcept;

/// A row-major matrix of codes: code (r, c) at codes[r * stride + c].
template <class Code>
struct BasicCodeMatrix {
  Code* codes = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;
};
using CodeMatrix = BasicCodeMatrix<const std::uint8_t>;
using MutableCodeMatrix = BasicCodeMatrix<std::uint8_t>;

/// Where a matrix of words or values lies: line i starts at data + i * stride. A block of rows of a layer is a range of
/// columns of a transposed matrix: `data` is then the block's first column of line 0, `stride` the whole matrix's.
template <class Byte>
struct BasicLines {
  Byte* data = nullptr;
  std::int64_t stride = 0;  ///< Bytes.
};
using Lines = BasicLines<const std::byte>;
using MutableLines = BasicLines<std::byte>;

/// How the codes of a matrix become lines of 32-bit words, the last of a stream filled up with zero bits.
enum class WordLayout : std::uint8_t {
  kRows,         ///< Line r: the stream of row r (compressed-tensors weight_packed, MLX weight).
  kRowsDown,     ///< Word r of line i: word i of row r's stream (GPTQ qweight).
  kColumns,      ///< Line c: the stream of column c (GPTQ qzeros, from zeros as [rows, groups]).
  kColumnsDown,  ///< Word c of line i: word i of column c's stream (compressed-tensors weight_zero_point).
  kAwq,          ///< As kColumns, 4 bits, each eight codes in the order 0 2 4 6 1 3 5 7 (AWQ qweight, qzeros).
};

/// @pre 1 <= bits <= 8, 4 for kAwq; codes < 2^bits.
void pack_words(WordLayout layout, int bits, const CodeMatrix& matrix, const MutableLines& lines) noexcept;
/// The inverse: fills matrix.rows x matrix.cols codes.
void unpack_words(WordLayout layout, int bits, const Lines& lines, const MutableCodeMatrix& matrix) noexcept;

/// torchao's plain int4: codes less 8 in two's complement, the even element in the low half of a byte. @pre count % 2
/// == 0
void pack_torchao_int4(const std::uint8_t* codes, std::int64_t count, std::byte* out) noexcept;
void unpack_torchao_int4(const std::byte* packed, std::int64_t count, std::uint8_t* codes) noexcept;
/// Its zero point (8 - z)·s, in fp32, and the z that a stored scale and zero point stand for: 8 - zero_point / s.
[[nodiscard]] float torchao_zero_point(float scale, float zero) noexcept;
[[nodiscard]] float zero_of_torchao(float scale, float zero_point) noexcept;

/// Values [rows, cols] as lines of columns: value r of line c is values[r * cols + c] rounded once to `dtype` (F32,
/// F16, BF16).
void store_transposed(const float* values, std::int64_t rows, std::int64_t cols, DType dtype,
                      const MutableLines& lines) noexcept;
void load_transposed(const Lines& lines, DType dtype, std::int64_t rows, std::int64_t cols, float* values) noexcept;

/// Whole zeros as codes. @pre Each is a whole number in 0..255.
void zeros_to_codes(std::span<const float> zeros, std::uint8_t* codes) noexcept;
void codes_to_zeros(std::span<const std::uint8_t> codes, float* zeros) noexcept;

}  // namespace halfquad
