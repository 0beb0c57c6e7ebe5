#include "kernels/pack.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "runtime/check.h"

namespace halfquad {
namespace {

constexpr std::size_t kStretch = 2048;  // elements kept in L1 while one slab after the other goes in

/// kStep: distance in bits between neighbouring slabs of one packed element.
template <class Element, unsigned kStep>
void pack_stretch(std::span<const std::uint8_t* const> slabs, std::size_t begin, std::size_t count,
                  std::byte* out) noexcept {
  std::array<Element, kStretch> packed;
  std::fill_n(packed.begin(), count, Element{0});
  for (const std::uint8_t* slab : slabs) {
    if (slab == nullptr) {
      for (std::size_t i = 0; i < count; ++i) packed[i] = static_cast<Element>(packed[i] << kStep);
      continue;
    }
    for (std::size_t i = 0; i < count; ++i) {
      packed[i] = static_cast<Element>(static_cast<Element>(packed[i] << kStep) | slab[begin + i]);
    }
  }
  std::memcpy(out + begin * sizeof(Element), packed.data(), count * sizeof(Element));
}

template <class Element, unsigned kStep>
void pack_all(std::span<const std::uint8_t* const> slabs, std::size_t count, std::byte* out) noexcept {
  for (std::size_t begin = 0; begin < count; begin += kStretch) {
    pack_stretch<Element, kStep>(slabs, begin, std::min(kStretch, count - begin), out);
  }
}

// The everyday case in one pass.
void pack_halves(const std::uint8_t* __restrict high, const std::uint8_t* __restrict low, std::size_t count,
                 std::byte* __restrict out) noexcept {
  for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<std::byte>((high[i] << 4U) | low[i]);
}

template <class Element, unsigned kStep>
void unpack_all(const std::byte* packed, std::size_t count, std::span<std::uint8_t* const> slabs) noexcept {
  constexpr unsigned kMask = (1U << kStep) - 1U;
  std::array<Element, kStretch> elements;
  for (std::size_t begin = 0; begin < count; begin += kStretch) {
    const std::size_t n = std::min(kStretch, count - begin);
    std::memcpy(elements.data(), packed + begin * sizeof(Element), n * sizeof(Element));
    for (std::size_t s = 0; s < slabs.size(); ++s) {
      if (slabs[s] == nullptr) continue;
      const unsigned shift = kStep * static_cast<unsigned>(slabs.size() - 1 - s);
      std::uint8_t* const out = slabs[s] + begin;
      for (std::size_t i = 0; i < n; ++i)
        out[i] = static_cast<std::uint8_t>((std::uint32_t{elements[i]} >> shift) & kMask);
    }
  }
}

}  // namespace

void pack_codes(Packing packing, std::span<const std::uint8_t* const> slabs, std::int64_t count,
                std::byte* out) noexcept {
  HALFQUAD_DCHECK(slabs.size() == static_cast<std::size_t>(slabs_of(packing)));
  const auto n = static_cast<std::size_t>(count);
  switch (packing) {
    case Packing::k8BitU8:
      return pack_all<std::uint8_t, 8>(slabs, n, out);
    case Packing::k4BitU8:
      if (slabs[0] != nullptr && slabs[1] != nullptr) return pack_halves(slabs[0], slabs[1], n, out);
      return pack_all<std::uint8_t, 4>(slabs, n, out);
    case Packing::k3Bit32:
      return pack_all<std::uint32_t, 3>(slabs, n, out);
    case Packing::k2BitU8:
      return pack_all<std::uint8_t, 2>(slabs, n, out);
    case Packing::k1BitU8:
      return pack_all<std::uint8_t, 1>(slabs, n, out);
  }
}

void unpack_codes(Packing packing, const std::byte* packed, std::int64_t count,
                  std::span<std::uint8_t* const> slabs) noexcept {
  HALFQUAD_DCHECK(slabs.size() == static_cast<std::size_t>(slabs_of(packing)));
  const auto n = static_cast<std::size_t>(count);
  switch (packing) {
    case Packing::k8BitU8:
      return unpack_all<std::uint8_t, 8>(packed, n, slabs);
    case Packing::k4BitU8:
      return unpack_all<std::uint8_t, 4>(packed, n, slabs);
    case Packing::k3Bit32:
      return unpack_all<std::uint32_t, 3>(packed, n, slabs);
    case Packing::k2BitU8:
      return unpack_all<std::uint8_t, 2>(packed, n, slabs);
    case Packing::k1BitU8:
      return unpack_all<std::uint8_t, 1>(packed, n, slabs);
  }
}

}  // namespace halfquad
