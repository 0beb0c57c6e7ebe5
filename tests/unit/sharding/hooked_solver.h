#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "kernels/solver.h"

namespace halfquad::test {

/// A solver that calls `hook` before every block it solves.
class HookedSolver : public Solver {
 public:
  explicit HookedSolver(std::function<void()> hook) : hook_(std::move(hook)) {}
  [[nodiscard]] std::string name() const override { return "hooked"; }
  void solve(const GroupBlock& block, const SolveRequest& request, const SolveTarget& target,
             SolveStats& stats) override {
    hook_();
    solver_->solve(block, request, target, stats);
  }
  void encode(const GroupBlock& block, CodeWidth width, const FixedGrid& grid, DType stored, const SolveTarget& target,
              SolveStats& stats) override {
    solver_->encode(block, width, grid, stored, target, stats);
  }
  void encode_groups(const GroupBlock& block, CodeWidth width, const GroupGrids& grids, const SolveTarget& target,
                     SolveStats& stats) override {
    solver_->encode_groups(block, width, grids, target, stats);
  }
  void refit_zeros(const GroupBlock& block, CodeWidth width, const GroupGrids& grids, const float* stored_scale,
                   float* zero) override {
    solver_->refit_zeros(block, width, grids, stored_scale, zero);
  }
  [[nodiscard]] WeightRange range(const std::byte* data, DType dtype, std::int64_t count) override {
    return solver_->range(data, dtype, count);
  }
  void measure(const GroupBlock& block, const GivenCodes& given, ErrorSums& sums) override {
    solver_->measure(block, given, sums);
  }

 private:
  std::function<void()> hook_;
  std::unique_ptr<Solver> solver_ = make_simd_solver();
};

}  // namespace halfquad::test
