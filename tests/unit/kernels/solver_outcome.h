#pragma once

#include <cstdint>
#include <vector>

#include "kernels/solver.h"
#include "tests/unit/kernels/random_groups.h"

namespace halfquad::test {

/// Everything a solver writes, with canaries around and between.
struct Outcome {
  std::vector<std::uint8_t> codes;
  std::vector<float> scale;
  std::vector<float> zero;
  SolveStats stats;
};

/// Room for the results of a block, laid out as the block with `target_padding` elements between groups (axis 1) or
/// between elements (axis 0); `target` is set to it.
[[nodiscard]] Outcome room_for(const RandomBlock& random_block, std::int64_t target_padding, SolveTarget& target);

[[nodiscard]] Outcome solve(Solver& solver, const RandomBlock& block, std::int64_t target_padding,
                            const SolveRequest& request);

[[nodiscard]] bool same_bits(const std::vector<float>& a, const std::vector<float>& b);

/// Expects (GoogleTest) the same bytes; when a weight was not finite, only that both say so.
void expect_same(const ErrorSums& got, const ErrorSums& want);
void expect_same(const Outcome& got, const Outcome& want);

}  // namespace halfquad::test
