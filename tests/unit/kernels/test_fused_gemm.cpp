// The product with one order of sums: the bytes of plain loops, on every SIMD target.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/fused_gemm.h"
#include "kernels/solver.h"
#include "tests/support/expect_error.h"

namespace halfquad {
namespace {

struct Matrices {
  Matrices(std::int64_t row_count, std::int64_t depth_count, std::int64_t panel_count)
      : rows(row_count), depth(depth_count), panels(panel_count) {
    std::mt19937 random(static_cast<unsigned>(rows * 1000 + depth));
    std::normal_distribution<float> normal;
    weights.resize(static_cast<std::size_t>(rows * depth));
    inputs.resize(static_cast<std::size_t>(panels * (depth + 1) * kPanelTokens));
    for (float& w : weights) w = normal(random);
    for (float& x : inputs) x = normal(random);
  }

  [[nodiscard]] std::vector<float> multiply(FusedMultiply with) const {
    std::vector<float> out(static_cast<std::size_t>(panels * (rows + 2) * kPanelTokens), -7.0F);
    with({weights.data(), rows, depth, inputs.data(), (depth + 1) * kPanelTokens, out.data(), (rows + 2) * kPanelTokens,
          panels});
    return out;
  }

  std::int64_t rows, depth, panels;
  std::vector<float> weights, inputs;
};

bool same_bytes(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST(FusedGemm, PlainLoopsAreOneChainOfFusedSteps) {
  const Matrices given(2, 5, 1);
  const std::vector<float> out = given.multiply(multiply_fused_plain);
  for (std::size_t row = 0; row < 2; ++row) {
    for (std::size_t lane = 0; lane < kPanelTokens; ++lane) {
      float sum = 0;
      for (std::size_t d = 0; d < 5; ++d) {
        sum = std::fma(given.weights[row * 5 + d], given.inputs[d * kPanelTokens + lane], sum);
      }
      EXPECT_EQ(out[row * kPanelTokens + lane], sum);
    }
  }
  EXPECT_EQ(out[2 * kPanelTokens], -7.0F) << "written past the rows";
}

TEST(FusedGemm, EverySimdTargetMakesTheSameBytes) {
  // Rows around a block of registers, depths around a block of the cache.
  for (const auto& [rows, depth, panels] : {std::tuple{1, 1, 1},
                                            {5, 64, 2},
                                            {6, 100, 1},
                                            {13, 1023, 2},
                                            {12, 1024, 1},
                                            {7, 2049, 3},
                                            {3, 0, 1},
                                            {0, 8, 1}}) {
    const Matrices given(rows, depth, panels);
    const std::vector<float> wanted = given.multiply(multiply_fused_plain);
    for (const std::string& target : simd_targets()) {
      SCOPED_TRACE(target + " " + std::to_string(rows) + "x" + std::to_string(depth));
      EXPECT_TRUE(same_bytes(given.multiply(fused_multiply(target)), wanted));
    }
  }
}

TEST(FusedGemm, AnUnknownTargetIsRefused) {
  test::expect_error(ErrorCode::kUsage, {"'MMX'", "is not available here"},
                     [] { static_cast<void>(fused_multiply("MMX")); });
}

}  // namespace
}  // namespace halfquad
