#include "kernels/packed_int.h"

#include <algorithm>
#include <cstring>

#include "runtime/check.h"
#include "runtime/checked.h"

namespace halfquad {
namespace {

constexpr std::int64_t kWordBits = 32;
constexpr std::int64_t kWordBytes = 4;

/// `bits` bits from bit `at` of the little-endian stream of words of which `word(i)` is the i-th.
template <class Word>
std::uint32_t extract(Word word, std::int64_t at, int bits) noexcept {
  const std::int64_t index = at / kWordBits;
  const auto shift = static_cast<unsigned>(at % kWordBits);
  std::uint64_t window = word(index);
  if (shift + static_cast<unsigned>(bits) > kWordBits) window |= static_cast<std::uint64_t>(word(index + 1)) << 32U;
  return static_cast<std::uint32_t>(window >> shift) & ((1U << static_cast<unsigned>(bits)) - 1U);
}

std::uint32_t load_word(const std::byte* from) noexcept {
  std::uint32_t word = 0;
  std::memcpy(&word, from, sizeof word);
  return word;
}

/// Codes [begin, end) of a row on one grid.
struct Group {
  std::int64_t begin, end;
  std::int32_t zero;
  float scale;
};

/// Codes that do not cross bytes: the compiler makes vectors of these.
template <unsigned kBits>
void decode_within_bytes(const std::byte* codes, const Group& group, float* out) noexcept {
  constexpr std::uint64_t kPerByte = 8 / kBits;
  for (auto i = static_cast<std::uint64_t>(group.begin); i < static_cast<std::uint64_t>(group.end); ++i) {
    const auto byte = std::to_integer<std::uint32_t>(codes[i / kPerByte]);
    const std::uint32_t code = byte >> i % kPerByte * kBits & ((1U << kBits) - 1U);
    out[i] = static_cast<float>(static_cast<std::int32_t>(code) - group.zero) * group.scale;
  }
}

void decode_group(const std::byte* codes, int bits, const Group& group, float* out) noexcept {
  if (bits == 4) return decode_within_bytes<4>(codes, group, out);
  if (bits == 8) return decode_within_bytes<8>(codes, group, out);
  const auto word = [&](std::int64_t index) { return load_word(codes + index * kWordBytes); };
  for (std::int64_t i = group.begin; i < group.end; ++i) {
    const auto code = static_cast<std::int32_t>(extract(word, i * bits, bits));
    out[i] = static_cast<float>(code - group.zero) * group.scale;
  }
}

}  // namespace

std::int64_t packed_int_row_bytes(std::int64_t cols, int bits) noexcept {
  return ceil_div(cols * bits, kWordBits) * kWordBytes;
}

void decode_packed_int_rows(const PackedIntRows& packed, const MatrixRows& rows, const ScaleGrid& grid,
                            float* out) noexcept {
  HALFQUAD_DCHECK(grid.block_rows == 1);
  const std::int64_t groups = ceil_div(rows.cols, grid.block_cols);
  const std::int64_t row_bytes = packed_int_row_bytes(rows.cols, packed.bits);
  const std::int64_t first_bit = rows.first * packed.bits / kWordBits * kWordBits;
  for (std::int64_t row = 0; row < rows.count; ++row) {
    const std::byte* codes = packed.codes + row * row_bytes;
    const std::byte* scales = grid.data + row * groups * bytes_of(grid.dtype);
    const std::int64_t zero_bit = (rows.first + row) * packed.bits - first_bit;
    for (std::int64_t group = 0; group < groups; ++group) {
      const std::int64_t begin = group * grid.block_cols;
      Group part{begin, std::min(rows.cols, begin + grid.block_cols), 1 << (packed.bits - 1), 0};
      decode_narrow_to_f32(scales + group * bytes_of(grid.dtype), grid.dtype, 1, &part.scale);
      if (packed.zeros != nullptr) {
        const auto word = [&](std::int64_t i) { return load_word(packed.zeros + (i * groups + group) * kWordBytes); };
        part.zero = static_cast<std::int32_t>(extract(word, zero_bit, packed.bits));
      }
      decode_group(codes, packed.bits, part, out + row * rows.cols);
    }
  }
}

}  // namespace halfquad
