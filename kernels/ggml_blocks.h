#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace halfquad {

/// Blocks of 32 weights of one row, a scale d and for some a minimum m in fp16 in front of the codes q.
enum class GgmlBlock : std::uint8_t {
  kQ4_0,  ///< (q - 8)·d, 18 bytes
  kQ4_1,  ///< q·d + m, 20 bytes
  kQ5_0,  ///< (q - 16)·d, 22 bytes
  kQ5_1,  ///< q·d + m, 24 bytes
  kQ8_0,  ///< (q - 128)·d, 34 bytes; stored as int8
};
inline constexpr std::int64_t kGgmlBlockElems = 32;

[[nodiscard]] std::string_view name_of(GgmlBlock kind) noexcept;  ///< "Q4_0", ...
[[nodiscard]] std::int64_t block_bytes_of(GgmlBlock kind) noexcept;
[[nodiscard]] int bits_of(GgmlBlock kind) noexcept;          ///< 4, 4, 5, 5, 8.
[[nodiscard]] bool has_minimum(GgmlBlock kind) noexcept;     ///< Q4_1 and Q5_1: zeros of any value, as m = -d·z.
[[nodiscard]] float fixed_zero_of(GgmlBlock kind) noexcept;  ///< 8, 16 or 128; 0 for those with a minimum.

/// The codes and the fp16 bits of some whole rows' grids, one after the other.
template <class Code, class Half>
struct BasicGgmlGroups {
  Code* codes = nullptr;         ///< `elems` of them, below 2^bits.
  Half* d = nullptr;             ///< One for each group_size codes.
  Half* m = nullptr;             ///< The same; not looked at for kinds without a minimum.
  std::int64_t elems = 0;        ///< A multiple of 32.
  std::int64_t group_size = 32;  ///< A multiple of 32 that divides `elems`.
};
using GgmlGroups = BasicGgmlGroups<const std::uint8_t, const std::uint16_t>;
using MutableGgmlGroups = BasicGgmlGroups<std::uint8_t, std::uint16_t>;

/// Writes elems / 32 blocks; the grid of a group is repeated in each of its blocks.
void pack_ggml_blocks(GgmlBlock kind, const GgmlGroups& groups, std::byte* blocks) noexcept;

/// The inverse, with one grid a block. @pre groups.group_size == 32
void unpack_ggml_blocks(GgmlBlock kind, const std::byte* blocks, const MutableGgmlGroups& groups) noexcept;

/// The weights of elems / 32 blocks of Q8_0, which fp32 holds exactly.
void dequantize_q8_0(const std::byte* blocks, std::int64_t elems, float* weights) noexcept;

}  // namespace halfquad
