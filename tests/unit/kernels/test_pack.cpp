#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/pack.h"

namespace halfquad {
namespace {

using Row = std::array<std::uint8_t, 8>;
constexpr Row kA = {0, 1, 2, 3, 4, 5, 6, 7};
constexpr Row kB = {8, 9, 10, 11, 12, 13, 14, 15};
constexpr Row kC = {15, 14, 13, 12, 11, 10, 9, 8};
constexpr Row kD = {7, 6, 5, 4, 3, 2, 1, 0};

Row masked(const Row& row, unsigned mask) {
  Row out = row;
  for (std::uint8_t& code : out) code = static_cast<std::uint8_t>(code & mask);
  return out;
}

std::vector<std::uint8_t> bytes_of(Packing packing, const std::vector<const std::uint8_t*>& slabs, std::int64_t count) {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(count * packed_bytes_of(packing)));
  pack_codes(packing, slabs, count, reinterpret_cast<std::byte*>(out.data()));
  return out;
}

TEST(PackCodes, EightBitsAreCopied) {
  EXPECT_EQ(bytes_of(Packing::k8BitU8, {kB.data()}, 8), std::vector<std::uint8_t>(kB.begin(), kB.end()));
}

TEST(PackCodes, FourBitsPutTheFirstSlabInTheHighNibble) {
  EXPECT_EQ(bytes_of(Packing::k4BitU8, {kA.data(), kC.data()}, 8),
            (std::vector<std::uint8_t>{0x0f, 0x1e, 0x2d, 0x3c, 0x4b, 0x5a, 0x69, 0x78}));
  EXPECT_EQ(bytes_of(Packing::k4BitU8, {kB.data(), kD.data()}, 8),
            (std::vector<std::uint8_t>{0x87, 0x96, 0xa5, 0xb4, 0xc3, 0xd2, 0xe1, 0xf0}));
}

TEST(PackCodes, ThreeBitsPutTenSlabsInOneWordAndTakeMissingOnesAsZeros) {
  const Row a = masked(kA, 7);
  const Row b = masked(kB, 7);
  const Row c = masked(kC, 7);
  const Row d = masked(kD, 7);
  std::vector<const std::uint8_t*> slabs(10, nullptr);
  slabs[0] = a.data();
  slabs[1] = b.data();
  slabs[2] = c.data();
  slabs[3] = d.data();

  const std::vector<std::uint8_t> bytes = bytes_of(Packing::k3Bit32, slabs, 8);

  std::array<std::uint32_t, 8> words{};
  std::memcpy(words.data(), bytes.data(), bytes.size());
  EXPECT_EQ(words, (std::array<std::uint32_t, 8>{0x00fc0000, 0x09d80000, 0x12b40000, 0x1b900000, 0x246c0000, 0x2d480000,
                                                 0x36240000, 0x3f000000}));
}

TEST(PackCodes, TwoBitsPutFourSlabsInOneByte) {
  const Row a = masked(kA, 3);
  const Row b = masked(kB, 3);
  const Row c = masked(kC, 3);
  const Row d = masked(kD, 3);

  EXPECT_EQ(bytes_of(Packing::k2BitU8, {a.data(), b.data(), c.data(), d.data()}, 8),
            (std::vector<std::uint8_t>{0x0f, 0x5a, 0xa5, 0xf0, 0x0f, 0x5a, 0xa5, 0xf0}));
}

TEST(PackCodes, OneBitPutsEightSlabsInOneByte) {
  const Row a = masked(kA, 1);
  const Row b = masked(kB, 1);
  const Row c = masked(kC, 1);
  const Row d = masked(kD, 1);

  EXPECT_EQ(
      bytes_of(Packing::k1BitU8, {a.data(), b.data(), c.data(), d.data(), d.data(), c.data(), b.data(), a.data()}, 8),
      (std::vector<std::uint8_t>{0x3c, 0xc3, 0x3c, 0xc3, 0x3c, 0xc3, 0x3c, 0xc3}));
}

class UnpackCodes : public testing::TestWithParam<Packing> {};

TEST_P(UnpackCodes, GivesBackWhatWasPackedForAnyCount) {
  const Packing packing = GetParam();
  const auto slab_count = static_cast<std::size_t>(slabs_of(packing));
  const unsigned mask = packing == Packing::k3Bit32 ? 7U : 0xFFU >> (8U - 8U / slab_count);
  std::mt19937 random(5);
  for (const std::int64_t count : {0, 1, 7, 31, 64, 2047, 2048, 2049, 5000}) {
    const auto n = static_cast<std::size_t>(count);
    std::vector<std::vector<std::uint8_t>> codes(slab_count, std::vector<std::uint8_t>(n));
    std::vector<std::vector<std::uint8_t>> back(slab_count, std::vector<std::uint8_t>(n + 1, 0xEE));
    std::vector<const std::uint8_t*> in;
    std::vector<std::uint8_t*> out;
    for (auto& slab : codes) {
      for (std::uint8_t& code : slab) code = static_cast<std::uint8_t>(random() & mask);
      in.push_back(slab.data());
    }
    for (auto& slab : back) out.push_back(slab.data());
    std::vector<std::byte> packed(n * static_cast<std::size_t>(packed_bytes_of(packing)) + 1, std::byte{0x55});

    pack_codes(packing, in, count, packed.data());
    unpack_codes(packing, packed.data(), count, out);

    EXPECT_EQ(packed.back(), std::byte{0x55}) << "wrote past the end";
    for (std::size_t s = 0; s < slab_count; ++s) {
      EXPECT_EQ(back[s].back(), 0xEE) << "wrote past the end of slab " << s;
      back[s].pop_back();
      EXPECT_EQ(back[s], codes[s]) << "slab " << s << " of " << count;
    }
  }
}

TEST_P(UnpackCodes, LeavesNullSlabsAlone) {
  const Packing packing = GetParam();
  const auto slab_count = static_cast<std::size_t>(slabs_of(packing));
  const std::vector<std::uint8_t> ones(16, 1);
  std::vector<const std::uint8_t*> in(slab_count, nullptr);
  in.back() = ones.data();
  std::vector<std::uint8_t> last(16);
  std::vector<std::uint8_t*> out(slab_count, nullptr);
  out.back() = last.data();
  std::vector<std::byte> packed(16 * static_cast<std::size_t>(packed_bytes_of(packing)));

  pack_codes(packing, in, 16, packed.data());
  unpack_codes(packing, packed.data(), 16, out);

  EXPECT_EQ(packed[0], std::byte{1});
  EXPECT_EQ(last, ones);
}

INSTANTIATE_TEST_SUITE_P(All, UnpackCodes,
                         testing::Values(Packing::k8BitU8, Packing::k4BitU8, Packing::k3Bit32, Packing::k2BitU8,
                                         Packing::k1BitU8),
                         [](const auto& info) { return std::string("p").append(name_of(info.param)); });

}  // namespace
}  // namespace halfquad
