#include "kernels/ggml_k_quants.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "kernels/decode.h"
#include "kernels/k_quant_block.h"
#include "runtime/check.h"

namespace halfquad {
namespace {

constexpr std::array<std::string_view, 5> kNames = {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"};

// Places of the fields of a kind in its block, in bytes.
struct Places {
  std::size_t d, dmin, scales, low, high;
};

Places places_of(GgmlKQuant kind) noexcept {
  constexpr std::array<Places, 5> kPlaces = {{{80, 82, 0, 16, 0},       // scales, 2-bit codes, d, dmin
                                              {108, 0, 96, 32, 0},      // third bits, 2-bit codes, scales, d
                                              {0, 2, 4, 16, 0},         // d, dmin, scales, 4-bit codes
                                              {0, 2, 4, 48, 16},        // d, dmin, scales, fifth bits, 4-bit codes
                                              {208, 0, 192, 0, 128}}};  // 4-bit codes, upper 2 bits, scales, d
  return kPlaces[static_cast<std::size_t>(kind)];
}

constexpr std::size_t kStripe = 32;  // codes side by side that lie in bytes side by side

// Where the lower and upper bits of a stripe of codes lie: first byte and shift.
struct StripePlace {
  std::size_t low, high;
  unsigned low_shift, high_shift;
};

StripePlace stripe_place(GgmlKQuant kind, std::size_t stripe) noexcept {
  const std::size_t half = stripe / 4;
  const std::size_t in_half = stripe % 4;
  switch (kind) {
    case GgmlKQuant::kQ2_K:
      return {32 * half, 0, static_cast<unsigned>(2 * in_half), 0};
    case GgmlKQuant::kQ3_K:
      return {32 * half, 0, static_cast<unsigned>(2 * in_half), static_cast<unsigned>(stripe)};
    case GgmlKQuant::kQ4_K:
    case GgmlKQuant::kQ5_K:
      return {32 * (stripe / 2), 0, static_cast<unsigned>(4 * (stripe % 2)), static_cast<unsigned>(stripe)};
    case GgmlKQuant::kQ6_K:
      return {64 * half + 32 * (in_half % 2), 32 * half, static_cast<unsigned>(4 * (in_half / 2)),
              static_cast<unsigned>(2 * in_half)};
  }
  return {};
}

// Bits of a code that lie with the lower ones, and those above them.
struct CodeSplit {
  unsigned low, high;
};
CodeSplit split_of(GgmlKQuant kind) noexcept {
  constexpr std::array<CodeSplit, 5> kSplits = {{{2, 0}, {2, 1}, {4, 0}, {4, 1}, {4, 2}}};
  return kSplits[static_cast<std::size_t>(kind)];
}

unsigned bits_at(std::byte byte, unsigned shift, unsigned bits) noexcept {
  return std::to_integer<unsigned>(byte) >> shift & ((1U << bits) - 1U);
}
void add_bits(std::byte& byte, unsigned shift, unsigned bits) noexcept {
  byte |= static_cast<std::byte>(bits << shift);
}

// 6-bit scales and minima of eight sub-blocks in twelve bytes: four with each byte's lower six bits, the upper four
// sub-blocks from nibbles and the bits that were left.
void pack_scales_and_minima(const KQuantBlock& block, std::byte* out) noexcept {
  for (std::size_t j = 0; j < 4; ++j) {
    const auto upper_sc = static_cast<unsigned>(block.sc[j + 4]);
    const unsigned upper_mn = block.mn[j + 4];
    add_bits(out[j], 0, static_cast<unsigned>(block.sc[j]) | upper_sc >> 4U << 6U);
    add_bits(out[j + 4], 0, block.mn[j] | upper_mn >> 4U << 6U);
    add_bits(out[j + 8], 0, (upper_sc & 15U) | (upper_mn & 15U) << 4U);
  }
}

void unpack_scales_and_minima(const std::byte* in, KQuantBlock& block) noexcept {
  for (std::size_t j = 0; j < 4; ++j) {
    block.sc[j] = static_cast<std::int8_t>(bits_at(in[j], 0, 6));
    block.mn[j] = static_cast<std::uint8_t>(bits_at(in[j + 4], 0, 6));
    block.sc[j + 4] = static_cast<std::int8_t>(bits_at(in[j + 8], 0, 4) | bits_at(in[j], 6, 2) << 4U);
    block.mn[j + 4] = static_cast<std::uint8_t>(bits_at(in[j + 8], 4, 4) | bits_at(in[j + 4], 6, 2) << 4U);
  }
}

void pack_scales(GgmlKQuant kind, const KQuantBlock& block, std::byte* out) noexcept {
  switch (kind) {
    case GgmlKQuant::kQ2_K:
      for (std::size_t j = 0; j < 16; ++j) {
        out[j] = static_cast<std::byte>(static_cast<unsigned>(block.sc[j]) | static_cast<unsigned>(block.mn[j]) << 4U);
      }
      return;
    case GgmlKQuant::kQ3_K:
      for (std::size_t j = 0; j < 16; ++j) {
        const auto sc = static_cast<unsigned>(block.sc[j] + 32);
        add_bits(out[j % 8], static_cast<unsigned>(4 * (j / 8)), sc & 15U);
        add_bits(out[8 + j % 4], static_cast<unsigned>(2 * (j / 4)), sc >> 4U);
      }
      return;
    case GgmlKQuant::kQ4_K:
    case GgmlKQuant::kQ5_K:
      return pack_scales_and_minima(block, out);
    case GgmlKQuant::kQ6_K:
      std::memcpy(out, block.sc.data(), block.sc.size());
      return;
  }
}

void unpack_scales(GgmlKQuant kind, const std::byte* in, KQuantBlock& block) noexcept {
  switch (kind) {
    case GgmlKQuant::kQ2_K:
      for (std::size_t j = 0; j < 16; ++j) {
        block.sc[j] = static_cast<std::int8_t>(bits_at(in[j], 0, 4));
        block.mn[j] = static_cast<std::uint8_t>(bits_at(in[j], 4, 4));
      }
      return;
    case GgmlKQuant::kQ3_K:
      for (std::size_t j = 0; j < 16; ++j) {
        const unsigned low = bits_at(in[j % 8], static_cast<unsigned>(4 * (j / 8)), 4);
        const unsigned high = bits_at(in[8 + j % 4], static_cast<unsigned>(2 * (j / 4)), 2);
        block.sc[j] = static_cast<std::int8_t>(static_cast<int>(low | high << 4U) - 32);
      }
      return;
    case GgmlKQuant::kQ4_K:
    case GgmlKQuant::kQ5_K:
      return unpack_scales_and_minima(in, block);
    case GgmlKQuant::kQ6_K:
      std::memcpy(block.sc.data(), in, block.sc.size());
      return;
  }
}

// The canonical sums of a group of consecutive elements: element k goes to sum k mod 32.
using RunningSums = std::array<float, 32>;

float joined(const RunningSums& sums) noexcept {
  float total = 0;
  for (std::size_t l = 0; l < 8; ++l) total += ((sums[l] + sums[l + 8]) + sums[l + 16]) + sums[l + 24];
  return total;
}

void measure_plain(const float* weights, const float* restored, ErrorSums& sums) noexcept {
  RunningSums abs{};
  RunningSums square{};
  RunningSums weight2{};
  float largest = 0;
  for (std::size_t k = 0; k < kGgmlSuperBlock; ++k) {
    const std::size_t i = k % abs.size();
    const float w = weights[k];
    const float e = w - restored[k];
    abs[i] += std::abs(e);
    square[i] += e * e;
    weight2[i] += w * w;
    largest = std::max(largest, std::abs(e));
  }
  sums.add_group(joined(abs), joined(square), joined(weight2), largest);
}

void measure_weighted(const float* weights, const float* restored, const float* h, ErrorSums& sums) noexcept {
  RunningSums square{};
  RunningSums weight2{};
  for (std::size_t k = 0; k < kGgmlSuperBlock; ++k) {
    const std::size_t i = k % square.size();
    const float e = weights[k] - restored[k];
    square[i] += (h[k] * e) * e;
    weight2[i] += (h[k] * weights[k]) * weights[k];
  }
  sums.add_weighted(joined(square), joined(weight2));
}

}  // namespace

std::string_view name_of(GgmlKQuant kind) noexcept { return kNames[static_cast<std::size_t>(kind)]; }
std::int64_t block_bytes_of(GgmlKQuant kind) noexcept { return shape_of(kind).bytes; }

void pack_k_block(GgmlKQuant kind, const KQuantBlock& block, std::byte* out) noexcept {
  const Places places = places_of(kind);
  const CodeSplit split = split_of(kind);
  std::memset(out, 0, static_cast<std::size_t>(shape_of(kind).bytes));
  std::memcpy(out + places.d, &block.d, sizeof block.d);
  if (shape_of(kind).min_hi > 0) std::memcpy(out + places.dmin, &block.dmin, sizeof block.dmin);
  pack_scales(kind, block, out + places.scales);
  for (std::size_t stripe = 0; stripe < block.q.size() / kStripe; ++stripe) {
    const StripePlace place = stripe_place(kind, stripe);
    const std::uint8_t* const q = block.q.data() + stripe * kStripe;
    std::byte* const low = out + places.low + place.low;
    for (std::size_t i = 0; i < kStripe; ++i) add_bits(low[i], place.low_shift, q[i] & ((1U << split.low) - 1U));
    if (split.high == 0) continue;
    std::byte* const high = out + places.high + place.high;
    for (std::size_t i = 0; i < kStripe; ++i) add_bits(high[i], place.high_shift, q[i] >> split.low);
  }
}

void unpack_k_block(GgmlKQuant kind, const std::byte* in, KQuantBlock& block) noexcept {
  const Places places = places_of(kind);
  const CodeSplit split = split_of(kind);
  block = {};
  std::memcpy(&block.d, in + places.d, sizeof block.d);
  if (shape_of(kind).min_hi > 0) std::memcpy(&block.dmin, in + places.dmin, sizeof block.dmin);
  unpack_scales(kind, in + places.scales, block);
  for (std::size_t stripe = 0; stripe < block.q.size() / kStripe; ++stripe) {
    const StripePlace place = stripe_place(kind, stripe);
    std::uint8_t* const q = block.q.data() + stripe * kStripe;
    const std::byte* const low = in + places.low + place.low;
    for (std::size_t i = 0; i < kStripe; ++i) {
      q[i] = static_cast<std::uint8_t>(bits_at(low[i], place.low_shift, split.low));
    }
    if (split.high == 0) continue;
    const std::byte* const high = in + places.high + place.high;
    for (std::size_t i = 0; i < kStripe; ++i) {
      q[i] = static_cast<std::uint8_t>(q[i] | bits_at(high[i], place.high_shift, split.high) << split.low);
    }
  }
}

void dequantize_k_quants(GgmlKQuant kind, const std::byte* blocks, std::int64_t count, float* weights) noexcept {
  HALFQUAD_DCHECK(count % kGgmlSuperBlock == 0);
  const KQuantShape shape = shape_of(kind);
  KQuantBlock block;
  for (std::int64_t at = 0; at < count; at += kGgmlSuperBlock, blocks += shape.bytes) {
    unpack_k_block(kind, blocks, block);
    const float d = f16_to_f32(block.d);
    const float dmin = f16_to_f32(block.dmin);
    const auto elems = static_cast<std::size_t>(shape.sub_elems);
    for (std::size_t j = 0; j < block.q.size() / elems; ++j) {
      const float scale = d * static_cast<float>(block.sc[j]);
      const float minimum = shape.min_hi > 0 ? dmin * static_cast<float>(block.mn[j]) : 0;
      const std::uint8_t* const q = block.q.data() + j * elems;
      float* const out = weights + at + static_cast<std::int64_t>(j * elems);
      for (std::size_t i = 0; i < elems; ++i) out[i] = scale * static_cast<float>(q[i] - shape.q_zero) - minimum;
    }
  }
}

void unpack_k_quants(GgmlKQuant kind, const std::byte* blocks, std::int64_t count, std::uint8_t* codes, float* scale,
                     float* minimum) noexcept {
  HALFQUAD_DCHECK(count % kGgmlSuperBlock == 0);
  const KQuantShape shape = shape_of(kind);
  KQuantBlock block;
  for (std::int64_t at = 0; at < count; at += kGgmlSuperBlock, blocks += shape.bytes) {
    unpack_k_block(kind, blocks, block);
    std::memcpy(codes + at, block.q.data(), block.q.size());
    const float d = f16_to_f32(block.d);
    const float dmin = f16_to_f32(block.dmin);
    for (std::size_t j = 0; j < static_cast<std::size_t>(shape.subs()); ++j) {
      *scale++ = d * static_cast<float>(block.sc[j]);
      *minimum++ = shape.min_hi > 0 ? dmin * static_cast<float>(block.mn[j]) : 0;
    }
  }
}

void measure_k_quants(const float* weights, const float* restored, std::int64_t count, const ColumnWeights& importance,
                      ErrorSums& sums) noexcept {
  HALFQUAD_DCHECK(count % kGgmlSuperBlock == 0);
  for (std::int64_t at = 0; at < count; at += kGgmlSuperBlock) {
    measure_plain(weights + at, restored + at, sums);
    if (importance.h == nullptr) continue;
    measure_weighted(weights + at, restored + at, importance.h + (importance.first_col + at) % importance.cols, sums);
  }
}

}  // namespace halfquad
