#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/ggml_k_quants.h"

namespace halfquad {

/// What a super-block holds, whatever its layout.
struct KQuantBlock {
  std::uint16_t d = 0;               ///< fp16 bits
  std::uint16_t dmin = 0;            ///< 0 for the kinds without minima
  std::array<std::int8_t, 16> sc{};  ///< Those of the sub-blocks there are, signed as they count.
  std::array<std::uint8_t, 16> mn{};
  std::array<std::uint8_t, 256> q{};
};

/// The sub-blocks of a kind and the limits of its fields.
struct KQuantShape {
  int sub_elems;  ///< 16 or 32
  int qmax;
  int q_zero;    ///< Subtracted from q; 0 for the kinds with minima.
  int scale_lo;  ///< Limits of sc.
  int scale_hi;
  int min_hi;  ///< Limit of mn; 0 for the kinds without minima.
  int bytes;
  [[nodiscard]] constexpr int subs() const noexcept { return static_cast<int>(kGgmlSuperBlock) / sub_elems; }
};
[[nodiscard]] constexpr KQuantShape shape_of(GgmlKQuant kind) noexcept {
  constexpr std::array<KQuantShape, 5> kShapes = {{{16, 3, 0, 0, 15, 15, 84},
                                                   {16, 7, 4, -32, 31, 0, 110},
                                                   {32, 15, 0, 0, 63, 63, 144},
                                                   {32, 31, 0, 0, 63, 63, 176},
                                                   {16, 63, 32, -128, 127, 0, 210}}};
  return kShapes[static_cast<std::size_t>(kind)];
}

void pack_k_block(GgmlKQuant kind, const KQuantBlock& block, std::byte* out) noexcept;
void unpack_k_block(GgmlKQuant kind, const std::byte* in, KQuantBlock& block) noexcept;

}  // namespace halfquad
