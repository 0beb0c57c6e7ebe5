#include "kernels/row_pack.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "kernels/decode.h"
#include "kernels/simd/words.h"
#include "runtime/check.h"
#include "runtime/checked.h"

static_assert(std::endian::native == std::endian::little, "words are stored as they lie in memory");

namespace halfquad {
namespace {

constexpr std::int64_t kOctet = 8;  // codes that are packed together: one byte per bit of a code
constexpr std::int64_t kWordUnit = 32;
constexpr std::int64_t kWordBytes = 4;
constexpr std::int64_t kStretch = 256;  // columns whose lines stay in L1

// Eight codes, a byte each, as 8 * kBits bits: neighbours are moved together, then pairs, then fours.
template <unsigned kBits>
std::uint64_t squeeze(std::uint64_t x) noexcept {
  x = (x & 0x00FF00FF00FF00FFU) | ((x >> 8U & 0x00FF00FF00FF00FFU) << kBits);
  x = (x & 0x0000FFFF0000FFFFU) | ((x >> 16U & 0x0000FFFF0000FFFFU) << (2 * kBits));
  return (x & 0xFFFFFFFFU) | (x >> 32U << (4 * kBits));
}

template <unsigned kBits>
std::uint64_t spread(std::uint64_t x) noexcept {
  const auto mask = [](unsigned bits) { return (std::uint64_t{1} << bits) - 1; };
  x = (x & mask(4 * kBits)) | ((x >> (4 * kBits) & mask(4 * kBits)) << 32U);
  const std::uint64_t pairs = mask(2 * kBits) | mask(2 * kBits) << 32U;
  x = (x & pairs) | ((x >> (2 * kBits) & pairs) << 16U);
  const std::uint64_t ones = mask(kBits) * 0x0001000100010001U;
  return (x & ones) | ((x >> kBits & ones) << 8U);
}

std::uint64_t load_octet(const void* from) noexcept {
  std::uint64_t x = 0;
  std::memcpy(&x, from, sizeof x);
  return x;
}

template <unsigned kBits>
void pack_stream(const std::uint8_t* codes, std::int64_t count, std::byte* out) noexcept {
  if constexpr (kBits == 2 || kBits == 4) {
    const std::size_t done = simd::pack_stream(kBits, codes, static_cast<std::size_t>(count), out);
    codes += done;
    count -= static_cast<std::int64_t>(done);
    out += done * kBits / 8;
  }
  for (; count >= kOctet; count -= kOctet, codes += kOctet, out += kBits) {
    const std::uint64_t packed = squeeze<kBits>(load_octet(codes));
    std::memcpy(out, &packed, kBits);
  }
  if (count == 0) return;
  std::array<std::uint8_t, kOctet> last{};
  std::copy_n(codes, count, last.begin());
  const std::uint64_t packed = squeeze<kBits>(load_octet(last.data()));
  std::memcpy(out, &packed, static_cast<std::size_t>(bit_stream_bytes(count, kBits)));
}

// Reads no more than `readable` bytes.
template <unsigned kBits>
void unpack_stream(const std::byte* stream, std::int64_t readable, std::int64_t count, std::uint8_t* codes) noexcept {
  const auto put = [&](std::uint64_t packed) {
    const std::uint64_t octet = spread<kBits>(packed);
    std::memcpy(codes, &octet, sizeof octet);
    count -= kOctet;
    codes += kOctet;
    stream += kBits;
    readable -= kBits;
  };
  // Eight bytes as long as they are there: a load of 3 takes several times as long.
  while (count >= kOctet && readable >= kOctet) put(load_octet(stream));
  while (count >= kOctet) {
    std::uint64_t packed = 0;
    std::memcpy(&packed, stream, kBits);
    put(packed);
  }
  if (count == 0) return;
  std::uint64_t packed = 0;
  std::memcpy(&packed, stream, static_cast<std::size_t>(bit_stream_bytes(count, kBits)));
  const std::uint64_t octet = spread<kBits>(packed);
  std::memcpy(codes, &octet, static_cast<std::size_t>(count));
}

// `visit` with the number of bits as a constant.
template <class Visit>
void with_bits(int bits, const Visit& visit) noexcept {
  HALFQUAD_DCHECK(bits >= 1 && bits <= 8);
  switch (bits) {
    case 1:
      return visit(std::integral_constant<unsigned, 1>());
    case 2:
      return visit(std::integral_constant<unsigned, 2>());
    case 3:
      return visit(std::integral_constant<unsigned, 3>());
    case 4:
      return visit(std::integral_constant<unsigned, 4>());
    case 5:
      return visit(std::integral_constant<unsigned, 5>());
    case 6:
      return visit(std::integral_constant<unsigned, 6>());
    case 7:
      return visit(std::integral_constant<unsigned, 7>());
    default:
      return visit(std::integral_constant<unsigned, 8>());
  }
}

// The words of 32 codes, and two that let every octet be read as a whole.
template <unsigned kBits>
using UnitWords = std::array<std::uint32_t, kBits + 2>;

template <unsigned kBits>
void unpack_unit(const UnitWords<kBits>& words, std::int64_t count, std::uint8_t* codes) noexcept {
  unpack_stream<kBits>(reinterpret_cast<const std::byte*>(words.data()), sizeof words, count, codes);
}

template <unsigned kBits>
UnitWords<kBits> pack_unit(const std::uint8_t* codes) noexcept {
  UnitWords<kBits> words{};
  pack_stream<kBits>(codes, kWordUnit, reinterpret_cast<std::byte*>(words.data()));
  return words;
}

// Rows whose words fill a line of the cache in each line of words: these lie far apart, as the rows of codes do. So
// many columns that the words stay in L1.
constexpr std::int64_t kRowsTogether = 16;
constexpr std::int64_t kDownColumns = 512;

/// Rows of up to kColumns words each; a little longer, or the same column of all rows would share a set of L1.
template <std::int64_t kColumns>
class WordRows {
 public:
  [[nodiscard]] std::uint32_t* row(std::int64_t number) noexcept { return words_.data() + number * kStride; }

  // Column i of the first rows to out + i * stride.
  void store_columns(std::int64_t rows, std::int64_t columns, std::byte* out, std::int64_t stride) noexcept {
    const simd::WordBlock block{words_.data(), static_cast<std::size_t>(kStride), static_cast<std::size_t>(rows),
                                static_cast<std::size_t>(columns)};
    for (auto i = static_cast<std::int64_t>(simd::store_columns(block, out, stride)); i < columns; ++i) {
      for (std::int64_t r = 0; r < rows; ++r) {
        std::memcpy(out + i * stride + r * kWordBytes, row(r) + i, kWordBytes);
      }
    }
  }

 private:
  static constexpr std::int64_t kStride = kColumns + 4;
  std::array<std::uint32_t, static_cast<std::size_t>(kRowsTogether* kStride)> words_;
};

template <unsigned kBits>
void rows_down(const CodeMatrix& m, const MutableLines& lines) noexcept {
  WordRows<kDownColumns / kWordUnit * kBits> block;
  for (std::int64_t r = 0; r < m.rows; r += kRowsTogether) {
    const std::int64_t rows = std::min(kRowsTogether, m.rows - r);
    for (std::int64_t c = 0; c < m.cols; c += kDownColumns) {
      const std::int64_t count = std::min(kDownColumns, m.cols - c);
      const std::int64_t words = bit_stream_words(count, kBits);
      for (std::int64_t k = 0; k < rows; ++k) {
        block.row(k)[words - 1] = 0;
        pack_stream<kBits>(m.codes + (r + k) * m.stride + c, count, reinterpret_cast<std::byte*>(block.row(k)));
      }
      std::byte* const first = lines.data + c / kWordUnit * kBits * lines.stride + r * kWordBytes;
      block.store_columns(rows, words, first, lines.stride);
    }
  }
}

template <unsigned kBits>
void unpack_rows_down(const Lines& lines, const MutableCodeMatrix& m) noexcept {
  for (std::int64_t c = 0; c < m.cols; c += kWordUnit) {
    const std::int64_t count = std::min(kWordUnit, m.cols - c);
    const std::int64_t words = bit_stream_words(count, kBits);
    const std::byte* const first = lines.data + c / kWordUnit * kBits * lines.stride;
    for (std::int64_t r = 0; r < m.rows; ++r) {
      UnitWords<kBits> unit{};
      for (std::int64_t i = 0; i < words; ++i) {
        std::memcpy(&unit[static_cast<std::size_t>(i)], first + i * lines.stride + r * kWordBytes, kWordBytes);
      }
      unpack_unit<kBits>(unit, count, m.codes + r * m.stride + c);
    }
  }
}

// Where word i of column c's stream lies. Columns are the small matrices of zeros: no need for haste.
template <class Byte>
Byte* column_word(WordLayout layout, const BasicLines<Byte>& lines, std::int64_t c, std::int64_t i) noexcept {
  if (layout == WordLayout::kColumnsDown) return lines.data + i * lines.stride + c * kWordBytes;
  return lines.data + c * lines.stride + i * kWordBytes;
}

template <unsigned kBits>
void columns(WordLayout layout, const CodeMatrix& m, const MutableLines& lines) noexcept {
  for (std::int64_t r = 0; r < m.rows; r += kWordUnit) {
    const std::int64_t count = std::min(kWordUnit, m.rows - r);
    const std::int64_t words = bit_stream_words(count, kBits);
    for (std::int64_t c = 0; c < m.cols; ++c) {
      std::array<std::uint8_t, kWordUnit> codes{};
      for (std::int64_t k = 0; k < count; ++k) codes[static_cast<std::size_t>(k)] = m.codes[(r + k) * m.stride + c];
      const auto unit = pack_unit<kBits>(codes.data());
      for (std::int64_t i = 0; i < words; ++i) {
        std::memcpy(column_word(layout, lines, c, r / kWordUnit * kBits + i), &unit[static_cast<std::size_t>(i)],
                    kWordBytes);
      }
    }
  }
}

template <unsigned kBits>
void unpack_columns(WordLayout layout, const Lines& lines, const MutableCodeMatrix& m) noexcept {
  for (std::int64_t r = 0; r < m.rows; r += kWordUnit) {
    const std::int64_t count = std::min(kWordUnit, m.rows - r);
    const std::int64_t words = bit_stream_words(count, kBits);
    for (std::int64_t c = 0; c < m.cols; ++c) {
      UnitWords<kBits> unit{};
      for (std::int64_t i = 0; i < words; ++i) {
        std::memcpy(&unit[static_cast<std::size_t>(i)], column_word(layout, lines, c, r / kWordUnit * kBits + i),
                    kWordBytes);
      }
      std::array<std::uint8_t, kWordUnit> codes{};
      unpack_unit<kBits>(unit, kWordUnit, codes.data());
      for (std::int64_t k = 0; k < count; ++k) m.codes[(r + k) * m.stride + c] = codes[static_cast<std::size_t>(k)];
    }
  }
}

constexpr std::array<std::int64_t, 8> kAwqOrder = {0, 2, 4, 6, 1, 3, 5, 7};

// Eight rows are a word of each column.
constexpr std::int64_t kAwqColumns = 256;

// The words of `n` columns from the eight rows at `r`; those at and beyond `m.rows` count as zeros.
void awq_words(const CodeMatrix& m, std::int64_t r, std::int64_t c, std::int64_t n, std::uint32_t* words) noexcept {
  static constexpr std::array<std::uint8_t, kAwqColumns> kNone{};
  simd::AwqRows rows;
  for (std::size_t place = 0; place < rows.size(); ++place) {
    const std::int64_t row = r + kAwqOrder[place];
    rows[place] = row < m.rows ? m.codes + row * m.stride + c : kNone.data();
  }
  const auto count = static_cast<std::size_t>(n);
  for (std::size_t i = simd::awq_words(rows, count, words); i < count; ++i) {
    words[i] = 0;
    for (std::size_t place = 0; place < rows.size(); ++place) words[i] |= std::uint32_t{rows[place][i]} << 4 * place;
  }
}

void pack_awq(const CodeMatrix& m, const MutableLines& lines) noexcept {
  WordRows<kAwqColumns> block;
  constexpr std::int64_t kRows = kOctet * kRowsTogether;
  for (std::int64_t c = 0; c < m.cols; c += kAwqColumns) {
    const std::int64_t n = std::min(kAwqColumns, m.cols - c);
    for (std::int64_t r = 0; r < m.rows; r += kRows) {
      const std::int64_t words = ceil_div(std::min(kRows, m.rows - r), kOctet);
      for (std::int64_t w = 0; w < words; ++w) awq_words(m, r + kOctet * w, c, n, block.row(w));
      block.store_columns(words, n, lines.data + c * lines.stride + r / kOctet * kWordBytes, lines.stride);
    }
  }
}

void unpack_awq(const Lines& lines, const MutableCodeMatrix& m) noexcept {
  std::array<std::uint32_t, kStretch> words;
  for (std::int64_t c = 0; c < m.cols; c += kStretch) {
    const std::int64_t n = std::min(kStretch, m.cols - c);
    for (std::int64_t r = 0; r < m.rows; r += kOctet) {
      const std::byte* const in = lines.data + c * lines.stride + r / kOctet * kWordBytes;
      for (std::int64_t i = 0; i < n; ++i) {
        std::memcpy(&words[static_cast<std::size_t>(i)], in + i * lines.stride, kWordBytes);
      }
      for (std::size_t place = 0; place < kAwqOrder.size(); ++place) {
        const std::int64_t at = r + kAwqOrder[place];
        if (at >= m.rows) continue;
        std::uint8_t* const out = m.codes + at * m.stride + c;
        for (std::int64_t i = 0; i < n; ++i) {
          out[i] = static_cast<std::uint8_t>(words[static_cast<std::size_t>(i)] >> (4 * place) & 15U);
        }
      }
    }
  }
}

}  // namespace

std::int64_t bit_stream_bytes(std::int64_t count, int bits) noexcept { return ceil_div<std::int64_t>(count * bits, 8); }

std::int64_t bit_stream_words(std::int64_t count, int bits) noexcept {
  return ceil_div<std::int64_t>(count * bits, 32);
}

void pack_bits(const std::uint8_t* codes, std::int64_t count, int bits, std::span<std::byte> out) noexcept {
  const auto used = static_cast<std::size_t>(bit_stream_bytes(count, bits));
  HALFQUAD_DCHECK(out.size() >= used);
  with_bits(bits, [&](auto constant) { pack_stream<constant()>(codes, count, out.data()); });
  std::fill(out.begin() + static_cast<std::ptrdiff_t>(used), out.end(), std::byte{0});
}

void unpack_bits(const std::byte* stream, std::int64_t count, int bits, std::uint8_t* codes) noexcept {
  const std::int64_t readable = bit_stream_bytes(count, bits);
  with_bits(bits, [&](auto constant) { unpack_stream<constant()>(stream, readable, count, codes); });
}

void pack_words(WordLayout layout, int bits, const CodeMatrix& matrix, const MutableLines& lines) noexcept {
  switch (layout) {
    case WordLayout::kRows: {
      const auto bytes = static_cast<std::size_t>(bit_stream_words(matrix.cols, bits) * kWordBytes);
      for (std::int64_t r = 0; r < matrix.rows; ++r) {
        pack_bits(matrix.codes + r * matrix.stride, matrix.cols, bits, {lines.data + r * lines.stride, bytes});
      }
      return;
    }
    case WordLayout::kRowsDown:
      return with_bits(bits, [&](auto constant) { rows_down<constant()>(matrix, lines); });
    case WordLayout::kColumns:
    case WordLayout::kColumnsDown:
      return with_bits(bits, [&](auto constant) { columns<constant()>(layout, matrix, lines); });
    case WordLayout::kAwq:
      HALFQUAD_DCHECK(bits == 4);
      return pack_awq(matrix, lines);
  }
}

void unpack_words(WordLayout layout, int bits, const Lines& lines, const MutableCodeMatrix& matrix) noexcept {
  switch (layout) {
    case WordLayout::kRows:
      for (std::int64_t r = 0; r < matrix.rows; ++r) {
        unpack_bits(lines.data + r * lines.stride, matrix.cols, bits, matrix.codes + r * matrix.stride);
      }
      return;
    case WordLayout::kRowsDown:
      return with_bits(bits, [&](auto constant) { unpack_rows_down<constant()>(lines, matrix); });
    case WordLayout::kColumns:
    case WordLayout::kColumnsDown:
      return with_bits(bits, [&](auto constant) { unpack_columns<constant()>(layout, lines, matrix); });
    case WordLayout::kAwq:
      HALFQUAD_DCHECK(bits == 4);
      return unpack_awq(lines, matrix);
  }
}

void pack_torchao_int4(const std::uint8_t* codes, std::int64_t count, std::byte* out) noexcept {
  for (std::int64_t i = 0; i < count / 2; ++i) {
    out[i] = static_cast<std::byte>((codes[2 * i] | codes[2 * i + 1] << 4) ^ 0x88);  // less 8 flips the top bit
  }
}

void unpack_torchao_int4(const std::byte* packed, std::int64_t count, std::uint8_t* codes) noexcept {
  for (std::int64_t i = 0; i < count / 2; ++i) {
    const unsigned pair = std::to_integer<unsigned>(packed[i]) ^ 0x88U;
    codes[2 * i] = static_cast<std::uint8_t>(pair & 15U);
    codes[2 * i + 1] = static_cast<std::uint8_t>(pair >> 4U);
  }
}

float torchao_zero_point(float scale, float zero) noexcept { return (8.0F - zero) * scale; }

float zero_of_torchao(float scale, float zero_point) noexcept { return 8.0F - zero_point / scale; }

void store_transposed(const float* values, std::int64_t rows, std::int64_t cols, DType dtype,
                      const MutableLines& lines) noexcept {
  std::array<float, kStretch> line;
  for (std::int64_t c = 0; c < cols; ++c) {
    for (std::int64_t r = 0; r < rows; r += kStretch) {
      const std::int64_t n = std::min(kStretch, rows - r);
      for (std::int64_t i = 0; i < n; ++i) line[static_cast<std::size_t>(i)] = values[(r + i) * cols + c];
      encode_from_f32(line.data(), dtype, n, lines.data + c * lines.stride + r * bytes_of(dtype));
    }
  }
}

void load_transposed(const Lines& lines, DType dtype, std::int64_t rows, std::int64_t cols, float* values) noexcept {
  std::array<float, kStretch> line;
  for (std::int64_t c = 0; c < cols; ++c) {
    for (std::int64_t r = 0; r < rows; r += kStretch) {
      const std::int64_t n = std::min(kStretch, rows - r);
      decode_to_f32(lines.data + c * lines.stride + r * bytes_of(dtype), dtype, n, line.data());
      for (std::int64_t i = 0; i < n; ++i) values[(r + i) * cols + c] = line[static_cast<std::size_t>(i)];
    }
  }
}

void zeros_to_codes(std::span<const float> zeros, std::uint8_t* codes) noexcept {
  for (std::size_t i = 0; i < zeros.size(); ++i) codes[i] = static_cast<std::uint8_t>(zeros[i]);
}

void codes_to_zeros(std::span<const std::uint8_t> codes, float* zeros) noexcept {
  for (std::size_t i = 0; i < codes.size(); ++i) zeros[i] = static_cast<float>(codes[i]);
}

}  // namespace halfquad
