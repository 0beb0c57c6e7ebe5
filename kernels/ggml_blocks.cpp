#include "kernels/ggml_blocks.h"

#include <array>
#include <cstring>

#include "kernels/decode.h"
#include "runtime/check.h"

namespace halfquad {
namespace {

struct BlockKind {
  std::string_view name;
  std::int64_t bytes;
  int bits;
  bool minimum;
  float zero;
};

constexpr std::array<BlockKind, 5> kKinds = {{{"Q4_0", 18, 4, false, 8},
                                              {"Q4_1", 20, 4, true, 0},
                                              {"Q5_0", 22, 5, false, 16},
                                              {"Q5_1", 24, 5, true, 0},
                                              {"Q8_0", 34, 8, false, 128}}};
constexpr std::size_t kHalf = 16;  // codes of a block's lower nibbles

const BlockKind& kind_of(GgmlBlock kind) noexcept { return kKinds[static_cast<std::size_t>(kind)]; }

constexpr std::uint64_t kEachByte = 0x0101010101010101;

// Bit j of the result: bit 4 of code j. The product gathers the lowest bits of eight bytes in its highest byte.
std::uint32_t fifth_bits(const std::uint8_t* codes) noexcept {
  std::uint32_t bits = 0;
  for (unsigned j = 0; j < 32; j += 8) {
    std::uint64_t eight = 0;
    std::memcpy(&eight, codes + j, sizeof eight);
    bits |= static_cast<std::uint32_t>((eight >> 4U & kEachByte) * 0x0102040810204080U >> 56U) << j;
  }
  return bits;
}

// The inverse: sets bit 4 of the codes whose bit is set. Each byte of the product keeps another one of its eight bits.
void add_fifth_bits(std::uint32_t bits, std::uint8_t* codes) noexcept {
  for (unsigned j = 0; j < 32; j += 8) {
    std::uint64_t eight = 0;
    std::memcpy(&eight, codes + j, sizeof eight);
    const std::uint64_t kept = (bits >> j & 0xFFU) * kEachByte & 0x8040201008040201U;
    eight |= (kept + 0x7F7F7F7F7F7F7F7FU) >> 7U << 4U & 0x10U * kEachByte;
    std::memcpy(codes + j, &eight, sizeof eight);
  }
}

template <int kBits, bool kMinimum>
void pack_block(const std::uint8_t* codes, std::uint16_t d, std::uint16_t m, std::byte* out) noexcept {
  std::memcpy(out, &d, sizeof d);
  out += sizeof d;
  if constexpr (kMinimum) {
    std::memcpy(out, &m, sizeof m);
    out += sizeof m;
  }
  if constexpr (kBits == 8) {
    for (std::size_t j = 0; j < 2 * kHalf; ++j) out[j] = static_cast<std::byte>(codes[j] ^ 0x80);
    return;
  }
  if constexpr (kBits == 5) {
    const std::uint32_t fifth = fifth_bits(codes);
    std::memcpy(out, &fifth, sizeof fifth);
    out += sizeof fifth;
  }
  for (std::size_t j = 0; j < kHalf; ++j) {
    out[j] = static_cast<std::byte>((codes[j] & 15) | codes[j + kHalf] << 4);
  }
}

template <int kBits, bool kMinimum>
void unpack_block(const std::byte* in, std::uint8_t* codes, std::uint16_t* d, std::uint16_t* m) noexcept {
  std::memcpy(d, in, sizeof *d);
  in += sizeof *d;
  if constexpr (kMinimum) {
    std::memcpy(m, in, sizeof *m);
    in += sizeof *m;
  }
  if constexpr (kBits == 8) {
    for (std::size_t j = 0; j < 2 * kHalf; ++j) codes[j] = static_cast<std::uint8_t>(in[j] ^ std::byte{0x80});
    return;
  }
  std::uint32_t fifth = 0;
  if constexpr (kBits == 5) {
    std::memcpy(&fifth, in, sizeof fifth);
    in += sizeof fifth;
  }
  for (std::size_t j = 0; j < kHalf; ++j) {
    codes[j] = static_cast<std::uint8_t>(in[j] & std::byte{15});
    codes[j + kHalf] = static_cast<std::uint8_t>(in[j] >> 4);
  }
  if constexpr (kBits == 5) add_fifth_bits(fifth, codes);
}

template <int kBits, bool kMinimum>
void pack_all(GgmlBlock kind, const GgmlGroups& groups, std::byte* out) noexcept {
  const std::int64_t each = groups.group_size / kGgmlBlockElems;
  for (std::int64_t b = 0; b < groups.elems / kGgmlBlockElems; ++b, out += block_bytes_of(kind)) {
    const std::int64_t g = b / each;
    pack_block<kBits, kMinimum>(groups.codes + b * kGgmlBlockElems, groups.d[g],
                                kMinimum ? groups.m[g] : std::uint16_t{0}, out);
  }
}

template <int kBits, bool kMinimum>
void unpack_all(GgmlBlock kind, const std::byte* in, const MutableGgmlGroups& groups) noexcept {
  for (std::int64_t b = 0; b < groups.elems / kGgmlBlockElems; ++b, in += block_bytes_of(kind)) {
    unpack_block<kBits, kMinimum>(in, groups.codes + b * kGgmlBlockElems, groups.d + b,
                                  kMinimum ? groups.m + b : nullptr);
  }
}

}  // namespace

std::string_view name_of(GgmlBlock kind) noexcept { return kind_of(kind).name; }
std::int64_t block_bytes_of(GgmlBlock kind) noexcept { return kind_of(kind).bytes; }
int bits_of(GgmlBlock kind) noexcept { return kind_of(kind).bits; }
bool has_minimum(GgmlBlock kind) noexcept { return kind_of(kind).minimum; }
float fixed_zero_of(GgmlBlock kind) noexcept { return kind_of(kind).zero; }

void pack_ggml_blocks(GgmlBlock kind, const GgmlGroups& groups, std::byte* blocks) noexcept {
  HALFQUAD_DCHECK(groups.group_size % kGgmlBlockElems == 0 && groups.elems % groups.group_size == 0);
  switch (kind) {
    case GgmlBlock::kQ4_0:
      return pack_all<4, false>(kind, groups, blocks);
    case GgmlBlock::kQ4_1:
      return pack_all<4, true>(kind, groups, blocks);
    case GgmlBlock::kQ5_0:
      return pack_all<5, false>(kind, groups, blocks);
    case GgmlBlock::kQ5_1:
      return pack_all<5, true>(kind, groups, blocks);
    case GgmlBlock::kQ8_0:
      return pack_all<8, false>(kind, groups, blocks);
  }
}

void unpack_ggml_blocks(GgmlBlock kind, const std::byte* blocks, const MutableGgmlGroups& groups) noexcept {
  HALFQUAD_DCHECK(groups.group_size == kGgmlBlockElems);
  switch (kind) {
    case GgmlBlock::kQ4_0:
      return unpack_all<4, false>(kind, blocks, groups);
    case GgmlBlock::kQ4_1:
      return unpack_all<4, true>(kind, blocks, groups);
    case GgmlBlock::kQ5_0:
      return unpack_all<5, false>(kind, blocks, groups);
    case GgmlBlock::kQ5_1:
      return unpack_all<5, true>(kind, blocks, groups);
    case GgmlBlock::kQ8_0:
      return unpack_all<8, false>(kind, blocks, groups);
  }
}

void dequantize_q8_0(const std::byte* blocks, std::int64_t elems, float* weights) noexcept {
  for (std::int64_t b = 0; b < elems / kGgmlBlockElems; ++b) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, blocks, sizeof bits);
    const float d = f16_to_f32(bits);
    std::array<std::int8_t, kGgmlBlockElems> codes{};
    std::memcpy(codes.data(), blocks + sizeof bits, sizeof codes);
    for (std::size_t j = 0; j < codes.size(); ++j) weights[j] = static_cast<float>(codes[j]) * d;
    blocks += sizeof bits + sizeof codes;
    weights += kGgmlBlockElems;
  }
}

}  // namespace halfquad
