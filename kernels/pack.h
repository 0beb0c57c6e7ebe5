#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/quant_spec.h"

namespace halfquad {

/// Packs `count` elements: out[i] combines slabs[0][i] .. slabs[n-1][i], the first slab in the highest bits
/// (hqq's bitpack.py). @pre slabs.size() == slabs_of(packing), codes <= the packing's largest,
/// out holds count * packed_bytes_of(packing) bytes (k3Bit32: little-endian int32). A null slab counts as zeros.
void pack_codes(Packing packing, std::span<const std::uint8_t* const> slabs, std::int64_t count,
                std::byte* out) noexcept;

/// The inverse; a null slab is not written.
void unpack_codes(Packing packing, const std::byte* packed, std::int64_t count,
                  std::span<std::uint8_t* const> slabs) noexcept;

}  // namespace halfquad
