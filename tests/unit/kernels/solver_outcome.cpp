#include "tests/unit/kernels/solver_outcome.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include <gtest/gtest.h>

namespace halfquad::test {

Outcome room_for(const RandomBlock& random_block, std::int64_t target_padding, SolveTarget& target) {
  constexpr std::int64_t kCanaries = 64;
  const GroupBlock& block = random_block.block();
  const bool along_rows = block.element_stride == 1;  // both strides are 1: a single group, or groups of one element
  target.group_stride = along_rows ? block.group_elems + target_padding : 1;
  target.element_stride = along_rows ? 1 : block.groups + target_padding;
  const std::int64_t longest = std::max(block.groups * target.group_stride, block.group_elems * target.element_stride);
  Outcome out;
  out.codes.assign(static_cast<std::size_t>(longest + kCanaries), 0xEE);
  out.scale.assign(static_cast<std::size_t>(block.groups + kCanaries), -77.0F);
  out.zero = out.scale;
  target.codes = out.codes.data();
  target.scale = out.scale.data();
  target.zero = out.zero.data();
  return out;
}

Outcome solve(Solver& solver, const RandomBlock& block, std::int64_t target_padding, const SolveRequest& request) {
  SolveTarget target;
  Outcome out = room_for(block, target_padding, target);
  out.stats.step_abs.resize(static_cast<std::size_t>(request.spec.iters));
  solver.solve(block.block(), request, target, out.stats);
  return out;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void expect_same(const ErrorSums& got, const ErrorSums& want) {
  EXPECT_EQ(got.abs.digits(), want.abs.digits());
  EXPECT_EQ(got.square.digits(), want.square.digits());
  EXPECT_EQ(got.weight2.digits(), want.weight2.digits());
  EXPECT_EQ(got.max_abs, want.max_abs);
  EXPECT_EQ(got.weighted_square.digits(), want.weighted_square.digits());
  EXPECT_EQ(got.weighted_weight2.digits(), want.weighted_weight2.digits());
}

void expect_same(const Outcome& got, const Outcome& want) {
  ASSERT_EQ(got.stats.nonfinite, want.stats.nonfinite);
  if (want.stats.nonfinite) return;
  EXPECT_TRUE(got.codes == want.codes) << "codes differ";
  EXPECT_TRUE(same_bits(got.scale, want.scale)) << "scales differ";
  EXPECT_TRUE(same_bits(got.zero, want.zero)) << "zeros differ";
  ASSERT_EQ(got.stats.step_abs.size(), want.stats.step_abs.size());
  for (std::size_t t = 0; t < want.stats.step_abs.size(); ++t) {
    EXPECT_EQ(got.stats.step_abs[t].digits(), want.stats.step_abs[t].digits()) << "errors of step " << t;
  }
  expect_same(got.stats.final_error, want.stats.final_error);
}

}  // namespace halfquad::test
