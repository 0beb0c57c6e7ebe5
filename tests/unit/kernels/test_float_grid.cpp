#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/float_grid.h"
#include "kernels/fp8.h"
#include "kernels/mxfp4.h"
#include "kernels/solver.h"
#include "runtime/error.h"
#include "tests/unit/kernels/random_groups.h"

namespace halfquad {
namespace {

constexpr FloatGrid kGrids[] = {FloatGrid::kNvfp4, FloatGrid::kMxfp4};

/// Some rows of weights, and what counts how much in them.
struct Rows {
  FloatGrid grid = FloatGrid::kNvfp4;
  std::int64_t cols = 0;
  std::vector<float> weights, importance;
  float tensor_scale = 1;

  [[nodiscard]] std::int64_t elems() const { return group_size_of(grid); }
  [[nodiscard]] std::int64_t groups() const { return static_cast<std::int64_t>(weights.size()) / elems(); }
  [[nodiscard]] float h(std::int64_t at) const {
    return importance.empty() ? 1 : importance[static_cast<std::size_t>(at % cols)];
  }
};

float largest_of(const std::vector<float>& weights) {
  float largest = 0;
  for (const float w : weights) largest = std::max(largest, std::abs(w));
  return largest;
}

Rows random_rows(std::mt19937_64& random, FloatGrid grid, test::Weights kind, double scale) {
  Rows rows;
  rows.grid = grid;
  const std::int64_t groups_per_row = 1 + static_cast<std::int64_t>(random() % 5);
  rows.cols = groups_per_row * rows.elems();
  const std::int64_t count = groups_per_row * (1 + static_cast<std::int64_t>(random() % 9));
  for (const double w : test::random_weights(random, {count, rows.elems()}, kind, scale)) {
    rows.weights.push_back(static_cast<float>(w));
  }
  rows.tensor_scale = grid == FloatGrid::kNvfp4 ? tensor_scale_of(largest_of(rows.weights)) : 1;
  if (random() % 3 == 0) return rows;
  std::lognormal_distribution<float> loudness(0, 2);
  for (std::int64_t i = 0; i < rows.cols; ++i) rows.importance.push_back(std::clamp(loudness(random), 1e-3F, 1e4F));
  return rows;
}

struct Found {
  std::vector<std::uint8_t> codes;
  std::vector<float> scale;
  bool operator==(const Found&) const = default;
};

Found run(const FloatGridSearcher& searcher, const Rows& rows, ScaleSearch search) {
  Found found{std::vector<std::uint8_t>(rows.weights.size() + 1, 0xEE),
              std::vector<float>(static_cast<std::size_t>(rows.groups()) + 1, -7)};
  searcher.run({.grid = rows.grid,
                .tensor_scale = rows.tensor_scale,
                .weights = rows.weights.data(),
                .groups = rows.groups(),
                .importance = rows.importance.empty() ? nullptr : rows.importance.data(),
                .cols = rows.cols},
               search, {found.codes.data(), found.scale.data()});
  EXPECT_EQ(found.codes.back(), 0xEE);
  EXPECT_EQ(found.scale.back(), -7);
  found.codes.pop_back();
  found.scale.pop_back();
  return found;
}

double error_of(const Rows& rows, const Found& found, std::int64_t group) {
  double sum = 0;
  for (std::int64_t k = 0; k < rows.elems(); ++k) {
    const std::int64_t at = group * rows.elems() + k;
    const double restored = (static_cast<double>(found.codes[static_cast<std::size_t>(at)]) - kFloatCodeZero) *
                            static_cast<double>(found.scale[static_cast<std::size_t>(group)]);
    const double e = static_cast<double>(rows.weights[static_cast<std::size_t>(at)]) - restored;
    sum += static_cast<double>(rows.h(at)) * e * e;
  }
  return sum;
}

/// The least error with any scale that a byte can hold.
double least_error(const Rows& rows, std::int64_t group) {
  double least = std::numeric_limits<double>::infinity();
  for (int byte = 1; byte < (rows.grid == FloatGrid::kNvfp4 ? 0x7F : 253); ++byte) {
    const float s = group_scale_of(rows.grid, static_cast<std::uint8_t>(byte), rows.tensor_scale);
    Found one{std::vector<std::uint8_t>(rows.weights.size()), std::vector<float>(rows.weights.size(), s)};
    for (std::int64_t k = 0; k < rows.elems(); ++k) {
      const auto at = static_cast<std::size_t>(group * rows.elems() + k);
      const float v = e2m1_to_f32(f32_to_e2m1(rows.weights[at] / (2 * s)));
      one.codes[at] = static_cast<std::uint8_t>(kFloatCodeZero + static_cast<int>(2 * v));
    }
    least = std::min(least, error_of(rows, one, group));
  }
  return least;
}

std::vector<Rows> many_rows(std::uint64_t seed, int rounds) {
  std::mt19937_64 random(seed);
  std::vector<Rows> all;
  for (int round = 0; round < rounds; ++round) {
    for (int kind = 0; kind < test::kWeightsKinds; ++kind) {
      for (const FloatGrid grid : kGrids) {
        all.push_back(random_rows(random, grid, static_cast<test::Weights>(kind), round % 2 == 0 ? 0.02 : 3.0));
      }
    }
  }
  return all;
}

TEST(FloatGrid, EveryTargetFindsTheBytesOfTheDefinition) {
  const auto reference = make_reference_float_searcher();
  const std::vector<Rows> all = many_rows(11, 8);
  for (const std::string& target : simd_targets()) {
    const auto searcher = make_float_searcher(target);
    for (const Rows& rows : all) {
      for (const ScaleSearch search : {ScaleSearch::kLargest, ScaleSearch::kBest}) {
        ASSERT_EQ(run(*searcher, rows, search), run(*reference, rows, search))
            << target << ", " << name_of(rows.grid) << ", " << rows.groups() << " groups";
      }
    }
  }
}

TEST(FloatGrid, NoGroupIsWorseThanRoundedWithTheLargestScale) {
  const auto searcher = make_float_searcher();
  for (const Rows& rows : many_rows(12, 20)) {
    const Found rounded = run(*searcher, rows, ScaleSearch::kLargest);
    const Found best = run(*searcher, rows, ScaleSearch::kBest);
    for (std::int64_t group = 0; group < rows.groups(); ++group) {
      // The search adds up in fp32.
      ASSERT_LE(error_of(rows, best, group), error_of(rows, rounded, group) * (1 + 1e-5))
          << name_of(rows.grid) << ", group " << group;
    }
  }
}

TEST(FloatGrid, NoScaleAtAllIsMuchBetterThanTheOneFound) {
  const auto searcher = make_float_searcher();
  std::mt19937_64 random(13);
  for (const FloatGrid grid : kGrids) {
    double found = 0, least = 0;
    for (int round = 0; round < 30; ++round) {
      const Rows rows =
          random_rows(random, grid, round % 2 == 0 ? test::Weights::kGauss : test::Weights::kHeavyTails, 0.02);
      const Found best = run(*searcher, rows, ScaleSearch::kBest);
      for (std::int64_t group = 0; group < rows.groups(); ++group) {
        found += error_of(rows, best, group);
        least += least_error(rows, group);
      }
    }
    EXPECT_LE(found, least * 1.001) << name_of(grid);
  }
}

// By their published rules: compressed-tensors' for NVFP4, OCP's for MXFP4.
TEST(FloatGrid, TheLargestScaleIsTheOneOthersRoundWith) {
  const auto searcher = make_float_searcher();
  std::mt19937_64 random(14);
  for (const FloatGrid grid : kGrids) {
    const Rows rows = random_rows(random, grid, test::Weights::kGauss, 0.02);
    const Found found = run(*searcher, rows, ScaleSearch::kLargest);
    const float global = 2688 / largest_of(rows.weights);
    for (std::int64_t group = 0; group < rows.groups(); ++group) {
      const auto* const first = rows.weights.data() + group * rows.elems();
      const float largest = largest_of({first, first + rows.elems()});
      const float scale = grid == FloatGrid::kNvfp4 ? e4m3_to_f32(f32_to_e4m3(global * (largest / 6))) / global
                                                    : std::exp2(std::floor(std::log2(largest)) - 2);
      EXPECT_EQ(found.scale[static_cast<std::size_t>(group)], scale / 2);
      for (std::int64_t k = 0; k < rows.elems(); ++k) {
        const float v = e2m1_to_f32(f32_to_e2m1(first[k] * (1 / (scale / 2)) / 2));
        EXPECT_EQ(found.codes[static_cast<std::size_t>(group * rows.elems() + k)],
                  kFloatCodeZero + static_cast<int>(2 * v));
      }
    }
  }
}

TEST(FloatGrid, ScalesComeBackFromTheirBytes) {
  for (const float largest : {1e-30F, 3e-3F, 0.7F, 1.0F, 12345.678F, 3e38F}) {
    const float tensor_scale = tensor_scale_of(largest);
    for (int byte = 1; byte < 0x7F; ++byte) {
      const float s = group_scale_of(FloatGrid::kNvfp4, static_cast<std::uint8_t>(byte), tensor_scale);
      ASSERT_EQ(scale_byte_of(FloatGrid::kNvfp4, s, tensor_scale), byte) << largest;
    }
  }
  for (int byte = 0; byte < 255; ++byte) {
    const float s = group_scale_of(FloatGrid::kMxfp4, static_cast<std::uint8_t>(byte), 1);
    ASSERT_EQ(scale_byte_of(FloatGrid::kMxfp4, s, 1), byte);
  }
  EXPECT_EQ(tensor_scale_of(0), 1);
}

TEST(FloatGrid, CodesComeBackFromNibbles) {
  std::vector<std::byte> all(256), packed(256);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::byte>(i);
  std::vector<std::uint8_t> codes(512);

  unpack_e2m1(all.data(), 512, codes.data());
  pack_e2m1(codes.data(), 512, packed.data());

  for (std::size_t i = 0; i < codes.size(); ++i) {
    const auto nibble = static_cast<std::uint8_t>((i / 2) >> (i % 2 * 4) & 0xF);
    ASSERT_EQ(static_cast<float>(codes[i]) - kFloatCodeZero, 2 * e2m1_to_f32(nibble)) << i;
    const auto again = static_cast<std::uint8_t>(std::to_integer<unsigned>(packed[i / 2]) >> (i % 2 * 4) & 0xFU);
    ASSERT_EQ(again, nibble == 8 ? 0 : nibble) << i;  // there is one zero
  }
}

TEST(FloatGrid, GgmlBlocksHaveTheirHalvesInTheNibbles) {
  std::vector<std::uint8_t> codes(64);
  std::mt19937_64 random(15);
  for (std::uint8_t& code : codes) {
    code = static_cast<std::uint8_t>(kFloatCodeZero + 2 * e2m1_to_f32(static_cast<std::uint8_t>(random() % 16)));
  }
  const std::vector<float> scale = {0x1p-8F, 0x1p3F};
  std::vector<std::byte> packed(2 * ggml_block_bytes(FloatGrid::kMxfp4));

  pack_ggml_floats({FloatGrid::kMxfp4, 2}, {codes.data(), scale.data()}, packed.data());

  EXPECT_EQ(std::to_integer<int>(packed[0]), 127 - 7);  // half of 2^-7
  EXPECT_EQ(std::to_integer<int>(packed[17]), 127 + 4);
  for (std::size_t i = 0; i < 16; ++i) {
    const auto pair = std::to_integer<unsigned>(packed[18 + i]);
    EXPECT_EQ(2 * e2m1_to_f32(static_cast<std::uint8_t>(pair & 0xFU)), static_cast<float>(codes[32 + i]) - 12);
    EXPECT_EQ(2 * e2m1_to_f32(static_cast<std::uint8_t>(pair >> 4U)), static_cast<float>(codes[48 + i]) - 12);
  }
  std::vector<std::uint8_t> again(64);
  std::vector<float> scales(2);
  unpack_ggml_floats({FloatGrid::kMxfp4, 2}, packed.data(), {again.data(), scales.data()});
  EXPECT_EQ(again, codes);
  EXPECT_EQ(scales, scale);
}

TEST(FloatGrid, GgmlsNvfp4HasFourScalesAndThenTheGroupsByHalves) {
  std::mt19937 random(8);
  std::vector<std::uint8_t> codes(128);
  for (std::uint8_t& code : codes) {
    code = static_cast<std::uint8_t>(kFloatCodeZero + 2 * e2m1_to_f32(static_cast<std::uint8_t>(random() % 16)));
  }
  const std::vector<float> scale = {0x1p-8F, 0x1p3F, 0, 0x1p-4F, 0.75F, 0x1p-5F, 0x1p-6F, 0x1p-7F};
  const GgmlFloatBlocks blocks{FloatGrid::kNvfp4, 8, 4.0F};
  std::vector<std::byte> packed(2 * ggml_block_bytes(FloatGrid::kNvfp4));
  ASSERT_EQ(packed.size(), 72U);

  pack_ggml_floats(blocks, {codes.data(), scale.data()}, packed.data());

  for (std::size_t group = 0; group < 8; ++group) {
    const std::byte* block = packed.data() + group / 4 * 36;
    EXPECT_EQ(e4m3_to_f32(std::to_integer<std::uint8_t>(block[group % 4])), 8 * scale[group]) << group;
    for (std::size_t i = 0; i < 8; ++i) {
      const auto pair = std::to_integer<unsigned>(block[4 + group % 4 * 8 + i]);
      EXPECT_EQ(2 * e2m1_to_f32(static_cast<std::uint8_t>(pair & 0xFU)),
                static_cast<float>(codes[group * 16 + i]) - 12);
      EXPECT_EQ(2 * e2m1_to_f32(static_cast<std::uint8_t>(pair >> 4U)),
                static_cast<float>(codes[group * 16 + 8 + i]) - 12);
    }
  }
  std::vector<std::uint8_t> again(128);
  std::vector<float> scales(8);
  unpack_ggml_floats(blocks, packed.data(), {again.data(), scales.data()});
  EXPECT_EQ(again, codes);
  EXPECT_EQ(scales, scale);

  packed[0] |= std::byte{0x80};  // ggml looks at no sign
  packed[1] = std::byte{0x7F};   // and takes what is no number for zero
  unpack_ggml_floats(blocks, packed.data(), {again.data(), scales.data()});
  EXPECT_EQ(scales[0], scale[0]);
  EXPECT_EQ(scales[1], 0);
}

TEST(FloatGrid, TensorScalesComeBackFromTheirInverses) {
  std::mt19937 random(9);
  std::uniform_real_distribution<float> exponent(-100, 100);
  for (int i = 0; i < 20000; ++i) {
    const float largest = std::exp2(exponent(random));
    const float scale = tensor_scale_of(largest);
    EXPECT_FLOAT_EQ(scale, std::min(0x1p100F, 2688 / largest));
    ASSERT_EQ(1 / (1 / scale), scale) << largest;
    const float power = power_of_two_scale_of(largest);
    EXPECT_TRUE(power <= scale && scale < 2 * power) << largest;
    int exponent_of_power = 0;
    EXPECT_EQ(std::frexp(power, &exponent_of_power), 0.5F);
  }
}

TEST(FloatGrid, RefusesATargetThatIsNotThere) { EXPECT_THROW(static_cast<void>(make_float_searcher("Z80")), Error); }

}  // namespace
}  // namespace halfquad
