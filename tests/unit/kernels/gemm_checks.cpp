#include "tests/unit/kernels/gemm_checks.h"

#include <array>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace halfquad::test {
namespace {

/// Numbers without any pattern, in (-1, 1).
std::vector<float> noise(std::int64_t count, std::uint32_t seed) {
  std::vector<float> out(static_cast<std::size_t>(count));
  for (float& value : out) {
    seed = seed * 1664525 + 1013904223;
    value = static_cast<float>(static_cast<std::int32_t>(seed)) / 2147483648.0F;
  }
  return out;
}

struct Matrices {
  explicit Matrices(const GemmProblem& sizes)
      : a(noise(sizes.m * sizes.a_stride, 1)),
        b(noise(sizes.n * sizes.b_stride, 2)),
        c(noise(sizes.m * sizes.c_stride, 3)),
        problem(sizes) {
    problem.a = a.data();
    problem.b = b.data();
    problem.c = c.data();
  }

  std::vector<float> a, b, c;
  GemmProblem problem;
};

}  // namespace

void expect_product_by_hand(Gemm& gemm) {
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};     // [2, 3]
  const std::vector<float> b = {1, 0, -1, 2, 1, 0.5};  // [2, 3]
  std::vector<float> c = {std::nanf(""), 7, 7, 7};     // what was there does not matter
  GemmProblem problem = {
      .m = 2, .n = 2, .k = 3, .a = a.data(), .a_stride = 3, .b = b.data(), .b_stride = 3, .c = c.data(), .c_stride = 2};

  gemm.multiply(problem);
  EXPECT_EQ(c, (std::vector<float>{-2, 5.5, -2, 16}));

  problem.k = 1;
  problem.sum = GemmSum::kAdd;
  gemm.multiply(problem);
  EXPECT_EQ(c, (std::vector<float>{-1, 7.5, 2, 24}));
}

void expect_right_product(Gemm& gemm, const GemmProblem& sizes) {
  Matrices x(sizes);
  const std::vector<float> before = x.c;

  gemm.multiply(x.problem);

  for (std::int64_t i = 0; i < sizes.m; ++i) {
    for (std::int64_t j = 0; j < sizes.c_stride; ++j) {
      const auto at = static_cast<std::size_t>(i * sizes.c_stride + j);
      if (j >= sizes.n) {
        ASSERT_EQ(x.c[at], before[at]) << i << ", " << j;
        continue;
      }
      double sum = sizes.sum == GemmSum::kAdd ? before[at] : 0.0;
      double magnitude = std::abs(sum);
      for (std::int64_t k = 0; k < sizes.k; ++k) {
        const double product = static_cast<double>(x.a[static_cast<std::size_t>(i * sizes.a_stride + k)]) *
                               static_cast<double>(x.b[static_cast<std::size_t>(j * sizes.b_stride + k)]);
        sum += product;
        magnitude += std::abs(product);
      }
      ASSERT_NEAR(x.c[at], sum, 1e-6 * magnitude + 1e-30) << i << ", " << j << " of " << sizes.k;
    }
  }
}

void expect_right_products(Gemm& gemm) {
  const std::vector<std::array<std::int64_t, 3>> shapes = {{1, 1, 1},   {1, 5, 300},    {7, 1, 33},   {2, 3, 15},
                                                           {17, 9, 64}, {64, 130, 257}, {3, 40, 5000}};
  for (const auto& [m, n, k] : shapes) {
    for (const GemmSum sum : {GemmSum::kReplace, GemmSum::kAdd}) {
      expect_right_product(gemm, {.m = m, .n = n, .k = k, .a_stride = k, .b_stride = k, .c_stride = n, .sum = sum});
      expect_right_product(
          gemm, {.m = m, .n = n, .k = k, .a_stride = k + 3, .b_stride = k + 5, .c_stride = n + 2, .sum = sum});
    }
  }
}

void expect_empty_products(Gemm& gemm) {
  expect_right_product(gemm, {.m = 0, .n = 3, .k = 2, .a_stride = 2, .b_stride = 2, .c_stride = 3});
  expect_right_product(gemm, {.m = 3, .n = 0, .k = 2, .a_stride = 2, .b_stride = 2, .c_stride = 0});
  for (const GemmSum sum : {GemmSum::kReplace, GemmSum::kAdd}) {
    expect_right_product(gemm, {.m = 2, .n = 3, .k = 0, .a_stride = 0, .b_stride = 0, .c_stride = 4, .sum = sum});
  }
}

void expect_overlap_refused(Gemm& gemm) {
  const GemmProblem right = {.m = 2, .n = 2, .k = 3, .a_stride = 3, .b_stride = 3, .c_stride = 2};
  for (std::int64_t GemmProblem::*stride : {&GemmProblem::a_stride, &GemmProblem::b_stride, &GemmProblem::c_stride}) {
    Matrices x(right);
    --(x.problem.*stride);
    expect_error(ErrorCode::kInternal, {"2 x 2 x 3", "overlap"}, [&] { gemm.multiply(x.problem); });
  }
}

}  // namespace halfquad::test
