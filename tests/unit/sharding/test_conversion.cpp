#include <cstring>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "sharding/conversion.h"

namespace halfquad {
namespace {

std::vector<float> counting(std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), 0.0F);
  return values;
}

/// All blocks of one source, each put where it says.
std::vector<float> convert(const Conversion& conversion) {
  const std::vector<float> weights = counting(conversion.rows * conversion.cols);
  std::vector<float> out(conversion.output_elements(), -1);
  for (std::int64_t i = 0; i < conversion.blocks(); ++i) {
    const Conversion::Block block = conversion.block(i);
    const std::span<const float> rows =
        std::span(weights).subspan(static_cast<std::size_t>(block.begin * conversion.cols),
                                   static_cast<std::size_t>((block.end - block.begin) * conversion.cols));
    conversion.apply(block, rows, reinterpret_cast<std::byte*>(out.data()) + block.offset);
  }
  return out;
}

Conversion of(RowOrder order, std::int64_t rows, std::int64_t cols) {
  Conversion conversion;
  conversion.order = order;
  conversion.rows = rows;
  conversion.cols = cols;
  return conversion;
}

TEST(Conversion, AddsOnceAndRoundsOnce) {
  Conversion conversion = of({}, 1, 3);
  conversion.to = DType::kBF16;
  conversion.add = 1;
  const std::vector<float> weights = {0.5F, -1, 0x1.01p0F};
  std::vector<std::byte> out(6);

  conversion.apply(conversion.block(0), weights, out.data());

  const std::vector<unsigned char> expected = {0xC0, 0x3F, 0, 0, 0x00, 0x40};  // 1.5, 0, 2.0039 rounds to 2
  EXPECT_EQ(std::memcmp(out.data(), expected.data(), 6), 0);
}

// llama.cpp's order of q and k: two heads of four rows.
TEST(Conversion, InterleavesTheHalvesOfEachHead) {
  const std::vector<float> rows = convert(of({RowOrder::Kind::kInterleaved, 4, 0, 0}, 8, 1));
  EXPECT_EQ(rows, (std::vector<float>{0, 2, 1, 3, 4, 6, 5, 7}));
}

TEST(Conversion, TakesSlicesOfHeadsAlsoTransposed) {
  EXPECT_EQ(convert(of({RowOrder::Kind::kSlice, 3, 1, 2}, 6, 2)), (std::vector<float>{2, 3, 4, 5, 8, 9, 10, 11}));
  EXPECT_EQ(convert(of({RowOrder::Kind::kTransposedSlice, 3, 1, 2}, 6, 2)),
            (std::vector<float>{2, 4, 3, 5, 8, 10, 9, 11}));
}

TEST(Conversion, BlocksMeetAtHeadsAndCoverEverything) {
  const Conversion large = of({RowOrder::Kind::kInterleaved, 96, 0, 0}, 96 * 40, 1024);
  std::int64_t row = 0;
  std::uint64_t offset = 0;
  ASSERT_GT(large.blocks(), 2);
  for (std::int64_t i = 0; i < large.blocks(); ++i) {
    const Conversion::Block block = large.block(i);
    EXPECT_EQ(block.begin, row);
    EXPECT_EQ(block.begin % 96, 0);
    EXPECT_EQ(block.offset, offset);
    EXPECT_EQ(large.layout(3).block_length(offset), block.elements * 4);
    row = block.end;
    offset += block.elements * 4;
  }
  EXPECT_EQ(row, large.rows);
  EXPECT_EQ(offset, large.layout(1).total_bytes);
  EXPECT_EQ(large.layout(3).total_bytes, 3 * offset);
}

}  // namespace
}  // namespace halfquad
