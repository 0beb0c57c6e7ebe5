#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/decode.h"
#include "kernels/power.h"
#include "kernels/reference/als.h"
#include "kernels/reference/integer_zero.h"
#include "kernels/solver.h"

// The definition of the bytes: one group at a time, one rounded fp32 operation after the other. Clarity before speed.

namespace halfquad {
namespace {

enum class SumOrder {
  k32Sums,  ///< Axis 1: element k goes to running sum k mod 32.
  kOneSum,  ///< Axis 0: one running sum in index order.
};

/// A sum of `planned` additions in index order, closed into the next of four levels every 2^power of them.
class RunningSum {
 public:
  explicit RunningSum(std::size_t planned) noexcept {
    const auto bits = planned > 1 ? static_cast<unsigned>(std::bit_width(planned - 1)) : 0U;
    power_ = std::max(4U, bits / 4);
    whole_ = planned >> power_ << power_;
  }

  void add(float value) noexcept {
    level_[0] += value;
    ++added_;
    const std::size_t mask = (std::size_t{1} << power_) - 1;
    if (added_ > whole_ || (added_ & mask) != 0) return;
    for (unsigned j = 1; j < 4; ++j) {
      level_[j] += level_[j - 1];
      level_[j - 1] = 0;
      if ((added_ & (mask << (j * power_))) != 0) break;
    }
  }

  /// An addition beyond the planned ones, after all of them, onto the joined sum.
  void add_last(float value) noexcept { last_ += value; }
  void join() noexcept { last_ = ((level_[0] + level_[1]) + level_[2]) + level_[3]; }
  [[nodiscard]] float value() const noexcept { return last_; }

 private:
  std::array<float, 4> level_{};
  float last_ = 0;
  unsigned power_ = 4;
  std::size_t whole_ = 0;
  std::size_t added_ = 0;
};

float sum_one(const std::vector<float>& x) {
  RunningSum sum(x.size());
  for (const float value : x) sum.add(value);
  sum.join();
  return sum.value();
}

float sum_32(const std::vector<float>& x) {
  constexpr std::size_t kLanes = 8;
  const std::size_t rounds = x.size() / 32;
  std::vector<RunningSum> sums(32, RunningSum(rounds));
  std::size_t k = 0;
  for (; k < rounds * 32; ++k) sums[k % 32].add(x[k]);
  for (RunningSum& sum : sums) sum.join();
  for (; k < x.size() / kLanes * kLanes; ++k) sums[k % kLanes].add_last(x[k]);

  float total = 0;
  for (; k < x.size(); ++k) total += x[k];
  for (std::size_t l = 0; l < kLanes; ++l) {
    total += ((sums[l].value() + sums[l + 8].value()) + sums[l + 16].value()) + sums[l + 24].value();
  }
  return total;
}

float sum_in(SumOrder order, const std::vector<float>& x) {
  return order == SumOrder::k32Sums ? sum_32(x) : sum_one(x);
}

SumOrder order_of(const GroupBlock& block) noexcept {
  return block.element_stride != 1 && block.group_stride == 1 ? SumOrder::kOneSum : SumOrder::k32Sums;
}

float code_of(float scaled, float zero, float largest) noexcept {
  return std::clamp(std::nearbyint(scaled + zero), 0.0F, largest);
}

/// The part of an error beyond what the l_p norm pulls to zero.
float shrink(float e, const StepConstants& step, const SolveRequest& request, const PowerExponent& exponent) noexcept {
  const float a = std::abs(e);
  const float pull = request.spec.lp_norm == 1 ? step.inv_beta : step.inv_beta * power(a, exponent);
  const float x = std::max(a - pull, 0.0F);
  return e < 0 ? -x : x;
}

class ReferenceSolver final : public Solver {
 public:
  [[nodiscard]] std::string name() const override { return "reference"; }

  void solve(const GroupBlock& block, const SolveRequest& request, const SolveTarget& target,
             SolveStats& stats) override {
    for (std::int64_t g = 0; g < block.groups; ++g) {
      const WeightRange range = load(block, g);
      FixedGrid grid;
      if (range.nonfinite || !find_grid(block, g, range, request, grid, stats)) {
        stats.nonfinite = true;
        continue;
      }
      target.scale[g] = grid.scale;
      target.zero[g] = grid.zero;
      if (request.finish == Finish::kGridOnly) continue;
      put_codes(grid, request.spec.width, target, g);
      add_errors(order_of(block), round_to(request.stored, grid.scale), round_to(request.stored, grid.zero),
                 stats.final_error);
    }
  }

  void encode(const GroupBlock& block, CodeWidth width, const FixedGrid& grid, DType stored, const SolveTarget& target,
              SolveStats& stats) override {
    for (std::int64_t g = 0; g < block.groups; ++g) {
      if (load(block, g).nonfinite) {
        stats.nonfinite = true;
        continue;
      }
      put_codes(grid, width, target, g);
      add_errors(order_of(block), round_to(stored, grid.scale), round_to(stored, grid.zero), stats.final_error);
    }
  }

  void encode_groups(const GroupBlock& block, CodeWidth width, const GroupGrids& grids, const SolveTarget& target,
                     SolveStats& stats) override {
    for (std::int64_t g = 0; g < block.groups; ++g) {
      if (load(block, g).nonfinite) {
        stats.nonfinite = true;
        continue;
      }
      put_codes({grids.inverse_scale[g], grids.scale[g], grids.zero[g]}, width, target, g);
      add_errors(order_of(block), grids.scale[g], grids.zero[g], stats.final_error);
      if (block.importance.h == nullptr) continue;
      load_importance(block, g);
      add_weighted_errors(grids.scale[g], grids.zero[g], stats.final_error);
    }
  }

  void refit_zeros(const GroupBlock& block, CodeWidth width, const GroupGrids& grids, const float* stored_scale,
                   float* zero) override {
    const auto largest = static_cast<float>(qmax(width));
    for (std::int64_t g = 0; g < block.groups; ++g) {
      load(block, g);
      load_importance(block, g);
      for (std::size_t k = 0; k < w_.size(); ++k) {
        x_[k] = h_[k] * w_[k];
        y_[k] = h_[k] * code_of(w_[k] * grids.inverse_scale[g], grids.zero[g], largest);
      }
      const float all = sum_32(h_);
      zero[g] = sum_32(y_) / all - (sum_32(x_) / all) / stored_scale[g];
    }
  }

  [[nodiscard]] WeightRange range(const std::byte* data, DType dtype, std::int64_t count) override {
    WeightRange all;
    for (std::int64_t i = 0; i < count; ++i) {
      float w = 0;
      decode_to_f32(data + i * bytes_of(dtype), dtype, 1, &w);
      all.add({.lo = w, .hi = w, .nonfinite = !std::isfinite(w)});
    }
    return all;
  }

  void measure(const GroupBlock& block, const GivenCodes& given, ErrorSums& sums) override {
    for (std::int64_t g = 0; g < block.groups; ++g) {
      load(block, g);
      for (std::size_t k = 0; k < w_.size(); ++k) {
        const auto at = g * block.group_stride + static_cast<std::int64_t>(k) * block.element_stride;
        const std::uint8_t code = given.codes[at];
        q_[k] = given.levels == nullptr ? code : given.levels[code];
      }
      add_errors(order_of(block), given.scale[g], given.zero[g], sums);
      if (block.importance.h == nullptr) continue;
      load_importance(block, g);
      add_weighted_errors(given.scale[g], given.zero[g], sums);
    }
  }

 private:
  /// Makes group `g` of `block` the current one.
  WeightRange load(const GroupBlock& block, std::int64_t g) {
    for (std::vector<float>* v : {&w_, &q_, &x_, &y_}) v->resize(static_cast<std::size_t>(block.group_elems));
    WeightRange all;
    for (std::size_t k = 0; k < w_.size(); ++k) {
      const std::int64_t at = g * block.group_stride + static_cast<std::int64_t>(k) * block.element_stride;
      const std::byte* const from = block.data + at * bytes_of(block.dtype);
      decode_to_f32(from, block.dtype, 1, &w_[k]);
      all.add({.lo = w_[k], .hi = w_[k], .nonfinite = !std::isfinite(w_[k])});
    }
    return all;
  }

  /// Sets h_ to the importance of the columns that the current group, `g` of `block`, lies in.
  void load_importance(const GroupBlock& block, std::int64_t g) {
    h_.assign(w_.size(), 1.0F);
    const ColumnWeights& columns = block.importance;
    if (columns.h == nullptr) return;
    const std::int64_t first = columns.first_col + g * block.group_elems;
    for (std::size_t k = 0; k < h_.size(); ++k) {
      h_[k] = columns.h[(first + static_cast<std::int64_t>(k)) % columns.cols];
    }
  }

  /// Solves for the grid of the current group, `g` of `block`; false when its range is beyond fp32.
  bool find_grid(const GroupBlock& block, std::int64_t g, const WeightRange& range, const SolveRequest& request,
                 FixedGrid& grid, SolveStats& stats) {
    if (request.spec.zeros != ZeroKind::kFloat) {
      if (!request.spec.weighted()) return search_integer_zero(w_, range, request.spec, grid);
      load_importance(block, g);
      return search_als_whole(w_, h_, range, request.spec, grid);
    }
    if (!std::isfinite(range.hi - range.lo)) return false;
    if (request.spec.solver == SolverKind::kAls) {
      load_importance(block, g);
      grid = search_als(w_, h_, range, request.spec);
    } else {
      grid = start_grid(range, request.spec.width, request.spec.round_zero);
      iterate(order_of(block), request, grid, stats);
    }
    return true;
  }

  /// Runs the steps of the half-quadratic solver on the current group; only the zero of `grid` moves.
  void iterate(SumOrder order, const SolveRequest& request, FixedGrid& grid, SolveStats& stats) {
    const int steps = request.spec.optimizes() ? request.iters : 0;
    stats.settled = std::max(stats.settled, steps);  // repeats are not looked for here
    const PowerExponent exponent = power_exponent(request.spec.lp_norm);
    const auto largest = static_cast<float>(qmax(request.spec.width));
    std::vector<float>& abs_error = x_;
    std::vector<float>& offset = y_;
    for (int t = 0; t < steps; ++t) {
      const StepConstants step = step_constants(request.spec, t);
      for (std::size_t k = 0; k < w_.size(); ++k) {
        const float scaled = w_[k] * grid.inverse_scale;
        const float q = code_of(scaled, grid.zero, largest);
        const float e = w_[k] - (q - grid.zero) * grid.scale;
        abs_error[k] = std::abs(e);
        offset[k] = q - scaled;
        if (abs_error[k] > step.inert_threshold) {
          offset[k] = q - (w_[k] - shrink(e, step, request, exponent)) * grid.inverse_scale;
        }
      }
      if (request.record == RecordErrors::kYes) {
        stats.step_abs[static_cast<std::size_t>(t)].add(finite_or_max(sum_in(order, abs_error)));
      }
      grid.zero = sum_in(order, offset) / static_cast<float>(w_.size());
    }
  }

  /// Codes of the current group on `grid`, kept in q_ and written to the target.
  void put_codes(const FixedGrid& grid, CodeWidth width, const SolveTarget& target, std::int64_t g) {
    const auto largest = static_cast<float>(qmax(width));
    for (std::size_t k = 0; k < w_.size(); ++k) {
      q_[k] = code_of(w_[k] * grid.inverse_scale, grid.zero, largest);
      target.codes[g * target.group_stride + static_cast<std::int64_t>(k) * target.element_stride] =
          static_cast<std::uint8_t>(q_[k]);
    }
  }

  /// Errors of the current group with the codes in q_.
  void add_errors(SumOrder order, float scale, float zero, ErrorSums& sums) {
    float largest = 0;
    for (std::size_t k = 0; k < w_.size(); ++k) {
      const float e = w_[k] - (q_[k] - zero) * scale;
      x_[k] = std::abs(e);
      y_[k] = e * e;
      largest = std::max(largest, x_[k]);
    }
    const float abs_sum = sum_in(order, x_);
    const float square_sum = sum_in(order, y_);
    for (std::size_t k = 0; k < w_.size(); ++k) x_[k] = w_[k] * w_[k];
    sums.add_group(abs_sum, square_sum, sum_in(order, x_), largest);
  }

  /// The weighted ones, with the importance in h_.
  void add_weighted_errors(float scale, float zero, ErrorSums& sums) {
    for (std::size_t k = 0; k < w_.size(); ++k) {
      const float e = w_[k] - (q_[k] - zero) * scale;
      x_[k] = (h_[k] * e) * e;
      y_[k] = (h_[k] * w_[k]) * w_[k];
    }
    const float square_sum = sum_32(x_);
    sums.add_weighted(square_sum, sum_32(y_));
  }

  std::vector<float> w_;  // weights of the current group
  std::vector<float> h_;  // importance of their columns, where it is asked for
  std::vector<float> q_;  // its codes
  std::vector<float> x_;  // terms of a sum
  std::vector<float> y_;
};

}  // namespace

std::unique_ptr<Solver> make_reference_solver() { return std::make_unique<ReferenceSolver>(); }

}  // namespace halfquad
