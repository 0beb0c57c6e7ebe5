#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/exact_sum.h"
#include "kernels/quant_spec.h"
#include "runtime/dtype.h"

namespace halfquad {

/// How much the squared error of each column of a matrix counts. Element k of group g of a block lies in column
/// (first_col + g * group_elems + k) mod cols, whatever lies between the groups in memory.
struct ColumnWeights {
  const float* h = nullptr;  ///< One for each of `cols` columns, finite and > 0; null: all count the same.
  std::int64_t cols = 0;
  std::int64_t first_col = 0;  ///< Of the block's first element; less than `cols`.
};

/// Some groups of a grouped matrix in the source's dtype. Element k of group g is element
/// `g * group_stride + k * element_stride` of `data`.
struct GroupBlock {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;  ///< F32, F16, BF16 or F64 (rounded to fp32 first).
  std::int64_t groups = 0;
  std::int64_t group_elems = 0;
  std::int64_t group_stride = 0;
  std::int64_t element_stride = 1;
  /// Read by solve() with kAls, refit_zeros(), encode_groups() and measure(). @pre element_stride is 1 where there is
  /// one.
  ColumnWeights importance = {};
};

/// Where results of a block go. Code of element k of group g: codes[g * group_stride + k * element_stride].
/// Either group_stride or element_stride is 1, as in the block.
struct SolveTarget {
  std::uint8_t* codes = nullptr;
  std::int64_t group_stride = 0;
  std::int64_t element_stride = 1;
  float* scale = nullptr;  ///< s = 1/S, one per group.
  float* zero = nullptr;
};

/// Error of ŵ = (q - z)·s against w, over some groups. Group sums are fp32 in the canonical order of numerics for the
/// axis, added exactly: equal for any tiling. `max_abs` is the largest |w - ŵ|.
struct ErrorSums {
  ExactSum abs;      ///< sum |w - ŵ|
  ExactSum square;   ///< sum (w - ŵ)²
  ExactSum weight2;  ///< sum w²
  float max_abs = 0;
  /// Of encode_groups() and measure() where columns are weighed: sum h (w - ŵ)² and sum h w². Elsewhere nothing.
  ExactSum weighted_square, weighted_weight2;
  void add(const ErrorSums& other) noexcept;
  /// Adds one group's fp32 sums. One that is not finite counts as the largest float; when `abs_sum` is not, so does
  /// `largest` (a maximum over NaNs would depend on the backend).
  void add_group(float abs_sum, float square_sum, float weight2_sum, float largest) noexcept;
  /// The same for the weighted sums.
  void add_weighted(float square_sum, float weight2_sum) noexcept;
};

/// The grids of some groups, one value each. @pre All are finite: where a stored scale is 0, so is its inverse.
struct GroupGrids {
  const float* inverse_scale = nullptr;  ///< S, what weights are multiplied with: 1 / s, rounded once.
  const float* scale = nullptr;          ///< s
  const float* zero = nullptr;
};

/// Codes, laid out as their block, and the stored scale and zero of each group: w = (q - zero)·scale, q being the code,
/// or with `levels` what stands there for it.
struct GivenCodes {
  const std::uint8_t* codes = nullptr;
  const float* scale = nullptr;
  const float* zero = nullptr;
  const float* levels = nullptr;  ///< By code, for all there are; null: none.
};

/// What the whole tensor needs from its blocks.
struct SolveStats {
  /// Per step begun: sum of |e| before that step's update of z. Size = spec.iters; the caller sizes it.
  std::vector<ExactSum> step_abs;
  ErrorSums final_error;  ///< With scale and zero rounded to the stored dtype.
  /// Steps after which no group's zero changes any more, as far as the backend noticed (else the steps run): a stop at
  /// this step or later has the same result. Largest over the blocks; the only value that may differ between backends.
  int settled = 0;
  bool nonfinite = false;  ///< A NaN or infinity, or a range beyond fp32, was met: the outputs are meaningless.
};

enum class RecordErrors { kNo, kYes };
enum class Finish {
  kCodes,     ///< Codes and final_error, too.
  kGridOnly,  ///< Scale and zero only, for encode_groups() to follow: that also finds the NaNs that may go unnoticed.
};
enum class FixedPointExit { kOff, kOn };  ///< kOff does the same arithmetic without skipping; for benchmarks.

struct SolveRequest {
  QuantSpec spec;
  int iters = 20;              ///< Steps to run: spec.iters, or the tensor's stop step when it is known.
  DType stored = DType::kF16;  ///< F32, F16 or BF16: dtype scale and zero are stored in (for final_error).
  RecordErrors record = RecordErrors::kYes;  ///< Whether step_abs is filled; the codes do not depend on it.
  Finish finish = Finish::kCodes;
  FixedPointExit exit = FixedPointExit::kOn;
};

/// One scale and zero given from outside (per-tensor quantization).
struct FixedGrid {
  float inverse_scale = 1;  ///< S
  float scale = 1;          ///< s = 1/S
  float zero = 0;
};

/// Smallest and largest weight of some data. A `lo` of zero is -0.0 when any of the weights is -0.0, whatever their
/// order: its sign becomes that of the start value of zero.
struct WeightRange {
  float lo = __builtin_inff();
  float hi = -__builtin_inff();
  bool nonfinite = false;
  void add(const WeightRange& other) noexcept;
};

/// The canonical start of a group with this range: S, s and z before any step. `nonfinite` is the caller's business.
[[nodiscard]] FixedGrid start_grid(const WeightRange& range, CodeWidth width, bool round_zero) noexcept;

/// A solver backend. Same bytes from every backend, for any cut of a tensor into blocks.
/// Holds its own scratch memory: one object per worker, not thread-safe.
class Solver {
 public:
  virtual ~Solver() = default;
  [[nodiscard]] virtual std::string name() const = 0;  ///< "reference", "simd AVX3", ...

  /// Solves every group of `block` (by request.spec.solver; whole zeros by IntegerZeroSearch) and adds to `stats`.
  virtual void solve(const GroupBlock& block, const SolveRequest& request, const SolveTarget& target,
                     SolveStats& stats) = 0;

  /// Codes of a block on a given grid (target.scale and target.zero are not touched); adds to stats.final_error.
  virtual void encode(const GroupBlock& block, CodeWidth width, const FixedGrid& grid, DType stored,
                      const SolveTarget& target, SolveStats& stats) = 0;

  /// Codes of each group on its own grid: clamp(rint(w·S + z), 0, qmax). target.scale and target.zero are not touched;
  /// adds the errors of (q - z)·s to stats.final_error, weighted ones too where the block has importance.
  virtual void encode_groups(const GroupBlock& block, CodeWidth width, const GroupGrids& grids,
                             const SolveTarget& target, SolveStats& stats) = 0;

  /// The zero of each group that fits `stored_scale` best once the codes are those on `grids`: the weighted mean of
  /// the codes minus that of the weights over the stored scale. `zero` may be grids.zero. @pre stored_scale > 0.
  virtual void refit_zeros(const GroupBlock& block, CodeWidth width, const GroupGrids& grids, const float* stored_scale,
                           float* zero) = 0;

  /// Range of `count` consecutive weights.
  [[nodiscard]] virtual WeightRange range(const std::byte* data, DType dtype, std::int64_t count) = 0;

  /// Error of given codes, weighted ones too where the block has importance.
  virtual void measure(const GroupBlock& block, const GivenCodes& given, ErrorSums& sums) = 0;
};

/// Plain loops: the definition of the bytes.
[[nodiscard]] std::unique_ptr<Solver> make_reference_solver();

/// The fastest SIMD target of this CPU, or the named one ("AVX3", "AVX2", "SSE4", "SSSE3", "NEON", ...).
/// Throws kUsage for a target this binary or CPU does not have.
[[nodiscard]] std::unique_ptr<Solver> make_simd_solver(const std::optional<std::string>& target = {});

/// Names of the targets that were compiled and that this CPU runs, fastest first.
[[nodiscard]] std::vector<std::string> simd_targets();

}  // namespace halfquad
