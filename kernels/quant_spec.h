#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/dtype.h"

namespace halfquad {

/// Width of a code. The values are those of the hqq library.
enum class CodeWidth : std::uint8_t { k1, k1_58, k2, k3, k4, k5, k6, k8 };

/// Byte layout of packed codes (hqq's names: 8bit_u8, 4bit_u8, 3bit_32, 2bit_u8, 1bit_u8).
enum class Packing : std::uint8_t { k8BitU8, k4BitU8, k3Bit32, k2BitU8, k1BitU8 };

enum class SolverKind : std::uint8_t {
  kRtn,  ///< Round to nearest between the group's minimum and maximum ("optimize off" in the hqq library).
  kHqq,  ///< The published half-quadratic solver with its tensor-wide early stop.
  kAls,  ///< Scale and zero by alternating least squares from several ranges, columns weighted (als_search.h).
};

/// What the zero of a group may be. Whole zeros are solved for as such, not rounded afterwards: the range is extended
/// to contain 0 and the scale is fitted to the zero.
enum class ZeroKind : std::uint8_t {
  kFloat,
  kInteger,    ///< A whole number in 0..qmax.
  kSymmetric,  ///< 2^(bits-1) in every group; (qmax + 1) / 2 rounded down for 1.58 bits.
};

/// Codes that are no whole steps of one size but floating-point numbers of 4 bits (E2M1), with the scales that go with
/// them (float_grid.h), or numbers of levels: entries of an ascending table, times scales of the format's dtype, in
/// groups of any size (level_grid.h).
enum class FloatGrid : std::uint8_t {
  kNone,
  kNvfp4,     ///< Groups of 16; scales in E4M3, over one fp32 number that the tensor has.
  kMxfp4,     ///< Groups of 32; scales are powers of two (E8M0).
  kFp4,       ///< Levels: E2M1.
  kFp3E2M0,   ///< Levels: 0, 1, 2, 4 and their negatives.
  kFp3E1M1,   ///< Levels: 0, 1, 2, 3 and their negatives.
  kNf4,       ///< Levels: NormalFloat4 of QLoRA, as bitsandbytes has it.
  kLearned4,  ///< 16 levels that are fitted to each tensor.
  kLearned3,  ///< 8 of them.
};

/// What tells how much the errors of a column (an input channel) count, for kAls.
enum class Importance : std::uint8_t {
  kNone,     ///< All the same.
  kWeights,  ///< A guess from the columns themselves (column_importance.h).
  kFile,     ///< What was measured of each column's inputs.
};

[[nodiscard]] int qmax(CodeWidth width) noexcept;                  ///< 1, 2, 3, 7, 15, 31, 63, 255.
[[nodiscard]] double bits_of(CodeWidth width) noexcept;            ///< 1, 1.58, 2, ...
[[nodiscard]] std::string_view name_of(CodeWidth width) noexcept;  ///< "1", "1.58", "2", ...
[[nodiscard]] std::optional<CodeWidth> code_width_from_name(std::string_view name) noexcept;
[[nodiscard]] std::string_view name_of(SolverKind solver) noexcept;  ///< "rtn", "hqq", "als".
[[nodiscard]] std::optional<SolverKind> solver_from_name(std::string_view name) noexcept;
[[nodiscard]] std::string_view name_of(FloatGrid grid) noexcept;  ///< "none", "nvfp4", "mxfp4", "fp4-e2m1", ...
[[nodiscard]] std::optional<FloatGrid> float_grid_from_name(std::string_view name) noexcept;
[[nodiscard]] std::string_view name_of(Importance importance) noexcept;  ///< "none", "weights", "file".
[[nodiscard]] std::optional<Importance> importance_from_name(std::string_view name) noexcept;

[[nodiscard]] Packing packing_of(CodeWidth width) noexcept;  ///< 8, 6, 5 -> k8BitU8; 2, 1.58 -> k2BitU8.
[[nodiscard]] std::string_view name_of(Packing packing) noexcept;
/// Rows of the grouped matrix that share one packed element: 1, 2, 10, 4, 8.
[[nodiscard]] int slabs_of(Packing packing) noexcept;
/// Bytes of one packed element: 4 for k3Bit32, else 1.
[[nodiscard]] int packed_bytes_of(Packing packing) noexcept;

/// Whole numeric contract of one tensor: everything that decides its codes, scales and zeros.
struct QuantSpec {
  CodeWidth width = CodeWidth::k4;
  std::int64_t group_size = 64;  ///< Weights that share a scale and zero; 0: a whole row (axis 1) or column (axis 0).
  int axis = 1;                  ///< 1: consecutive elements; 0: elements `numel / group_size` apart.
  bool channel_wise = true;      ///< false: one scale and zero for the tensor, never optimized, no grouping.
  bool round_zero = false;       ///< Round the start value of zero.
  SolverKind solver = SolverKind::kHqq;
  int iters = 20;        ///< kHqq: steps at most (1..kMaxIters).
  double lp_norm = 0.7;  ///< p of the shrinkage, 0.1..1.
  double beta = 10.0;
  double kappa = 1.01;
  ZeroKind zeros = ZeroKind::kFloat;
  /// Scales, and what stands beside them, are small whole numbers in units that 256 weights share: ggml's K types, with
  /// a search of their own (ggml_k_quants.h).
  bool super_blocks = false;
  FloatGrid grid = FloatGrid::kNone;  ///< Others have width k4 or k3 and symmetric zeros.
  int starts = 5;                     ///< kAls: ranges each group is searched from (1..kMaxStarts).
  int rounds = 4;                     ///< kAls: fits of scale and zero from each of them at most (1..kMaxIters).

  Importance importance = Importance::kWeights;  ///< kAls.
  double importance_power = 1;                   ///< kAls: of the measure that column weights are made from, 0..2.

  static constexpr int kMaxIters = 1000;
  static constexpr int kMaxStarts = 41;

  /// Whether the tensor-wide early stop can come up: hqq, channel-wise, zeros and scales of any value.
  [[nodiscard]] bool optimizes() const noexcept {
    return solver == SolverKind::kHqq && channel_wise && zeros == ZeroKind::kFloat && !super_blocks;
  }
  /// Whether the errors of some columns count more than those of others.
  [[nodiscard]] bool weighted() const noexcept;
  /// Whether the tensor has a number that all its scales are multiplied with, which follows from its largest weight.
  [[nodiscard]] bool has_tensor_scale() const noexcept { return grid == FloatGrid::kNvfp4; }
  /// Whether codes are numbers of levels, entries of a table.
  [[nodiscard]] bool has_levels() const noexcept { return grid >= FloatGrid::kFp4; }
  /// Whether that table is the tensor's own.
  [[nodiscard]] bool learns_levels() const noexcept { return grid >= FloatGrid::kLearned4; }
  /// The largest code as it is held in memory: qmax of the width, 24 for floating-point numbers, that of the last
  /// level.
  [[nodiscard]] int largest_code() const noexcept;
  friend bool operator==(const QuantSpec&, const QuantSpec&) = default;
};

/// The matrix the codes live in before packing (the hqq library's "grouped matrix"), row-major.
/// axis 1: rows = groups, cols = group size. axis 0: rows = group size, cols = groups. Per tensor: the tensor itself.
struct GroupedShape {
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t groups = 0;
  std::int64_t group_elems = 0;
};

/// Why `spec` cannot be applied to a [rows, cols] tensor ("group size 64 does not divide 4100 weights",
/// "4-bit packing needs an even number of grouped rows, not 39"); nothing when it can.
[[nodiscard]] std::optional<std::string> why_not(const QuantSpec& spec, std::int64_t rows, std::int64_t cols);

/// The same without hqq's packing in mind: why its weights do not fall into groups.
[[nodiscard]] std::optional<std::string> why_not_grouped(const QuantSpec& spec, std::int64_t rows, std::int64_t cols);
/// @pre !why_not_grouped(spec, rows, cols).
[[nodiscard]] GroupedShape grouped_shape(const QuantSpec& spec, std::int64_t rows, std::int64_t cols);

/// Rows of the packed matrix: ceil(grouped rows / slabs). Its columns are the grouped matrix's.
[[nodiscard]] std::int64_t packed_rows(Packing packing, std::int64_t grouped_rows) noexcept;

/// Step t = 0, 1, ... of the hqq solver: thresholds computed once in double, rounded to fp32 once.
struct StepConstants {
  float inv_beta = 0;         ///< 1 / beta_t.
  float inert_threshold = 0;  ///< 0.99 * beta_t^(-1/(2-p)): shrinkage is exactly zero up to this |e|.
};
/// @pre t >= 0. beta_t = beta * kappa * kappa ... (t products in double).
[[nodiscard]] StepConstants step_constants(const QuantSpec& spec, int t);

}  // namespace halfquad
